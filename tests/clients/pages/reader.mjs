/** A reader of server-sent events as a front end would write one; it says when it is given what it must never see. */
const GROWS = { tool_call: "arguments", tool_result: "output" };

export class Reader {
  offset = -1;
  messages = new Map();
  names = [];
  snapshots = 0;

  /** Listen to all events of a source. */
  follow(source) {
    const names = ["Snapshot", "Replay", "StreamUpdate", "MessageCreated", "MessageUpdated", "MessageCompleted"];
    for (const name of [...names, "MessageFailed", "MessageCancelled", "MessageDeleted", "Withdrawn"]) {
      source.addEventListener(name, (event) => this.take(name, JSON.parse(event.data)));
    }
    return this;
  }

  take(name, data) {
    this.names.push(name);
    if (name === "Snapshot") {
      this.snapshots++;
      this.messages.clear();
      for (const state of data.messages) this.one("MessageCreated", state);
      this.offset = data.offset;
    } else if (name === "Replay") {
      for (const event of data.events) this.one(event.event, event.data);
      this.offset = data.offset;
    } else if (data.offset !== undefined) {
      if (data.offset <= this.offset) throw new Error(`${name} ${data.offset} after ${this.offset}`);
      this.offset = data.offset;
      this.one(name, data);
    }
  }

  one(name, data) {
    if (name === "MessageCreated") {
      const parts = data.parts ?? (data.content ? [{ type: "text", text: data.content }] : []);
      this.messages.set(data.messageId, { parts: structuredClone(parts), status: data.status });
      return;
    }
    const message = this.messages.get(data.messageId);
    if (!message) return;
    if (name !== "StreamUpdate") return void (message.status = data.status ?? message.status);
    const grows = GROWS[data.kind] ?? "text";
    const part = (message.parts[data.part] ??= { type: data.kind, [grows]: "" });
    part[grows] += data.chunk;
  }

  text(id) {
    const parts = this.messages.get(id)?.parts ?? [];
    return parts.reduce((text, part) => (part?.type === "text" ? text + part.text : text), "");
  }

  status(id) {
    return this.messages.get(id)?.status;
  }
}
