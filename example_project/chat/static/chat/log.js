/** A conversation put together from its events, whoever brings them, and shown as plain text. */

const NAMES = ["Snapshot", "Replay", "MessageCreated", "StreamUpdate", "MessageUpdated", "MessageCompleted", "MessageFailed", "MessageCancelled", "MessageDeleted"];

export class Log {
  static names = NAMES;
  #messages = new Map(); // id -> its element
  #node = document.getElementById("log");

  take(name, data) {
    if (name === "Snapshot") this.#restore(data);
    else if (name === "Replay") for (const { event, data: inner } of data.events) this.take(event, inner);
    else if (name === "MessageCreated") this.#add(data);
    else if (name === "StreamUpdate" && data.kind === "text") this.#messages.get(data.messageId)?.lastChild.append(data.chunk);
    else if (name === "MessageDeleted") this.#messages.get(data.messageId)?.remove();
    if (data.status) this.#messages.get(data.messageId)?.setAttribute("data-status", data.status);
  }

  #restore({ messages }) {
    this.#messages.clear();
    this.#node.replaceChildren();
    for (const message of messages) this.take("MessageCreated", message);
  }

  #add({ messageId, role, content = "" }) {
    if (this.#messages.has(messageId)) return;
    const article = document.createElement("article");
    const who = document.createElement("b");
    const text = document.createElement("pre");
    who.textContent = role;
    text.textContent = content;
    article.append(who, text);
    this.#messages.set(messageId, article);
    this.#node.append(article);
  }
}
