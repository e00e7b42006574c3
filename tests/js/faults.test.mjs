/**
 * Whatever the network does, what is assembled equals the log.
 *
 * A server with a growing log talks to one client over sockets that break anywhere, double events, drop events, and
 * catch up with replays and snapshots. SEEDS=5000 tries more worlds.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Converse } from "../../converse/static/converse/converse.js";
import { Clock, network, seeded } from "./world.mjs";

const C = "11111111-1111-1111-1111-111111111111";
const SEEDS = Number(process.env.SEEDS ?? 300);

// What a part of each kind is told with, besides its text.
const FACTS = {
  text: {},
  reasoning: {},
  refusal: {},
  tool_call: { id: "c", name: "look" },
  approval: { id: "c", name: "look" },
  tool_result: { id: "c", name: "look", isError: true },
  source: { url: "https://example.org/", title: "There" },
  file: { attachment: "f", name: "a.png", mimeType: "image/png", size: 7 },
  raw: {},
};
const KINDS = Object.keys(FACTS);
const CALLS = ["tool_call", "approval", "tool_result"];
const SILENT = ["file", "raw"];
const GROWS = { tool_call: "arguments", tool_result: "output" };

class Server {
  log = []; // events; an event's offset is its index + 1
  epoch = "e1";
  leaf = 0;
  messages = new Map(); // id -> {data, place, parts, attempt, sequence, part, gone}: the truth

  constructor(random) {
    this.random = random;
    this.limit = random() < 0.3 ? 6 : Infinity;
  }

  below(n) {
    return Math.floor(this.random() * n);
  }

  get there() {
    return [...this.messages.values()].filter(({ gone }) => !gone);
  }

  any() {
    return [...this.messages.values()][this.below(this.messages.size)];
  }

  /** Add one random event to the log. */
  grow() {
    const open = this.there.filter(({ data }) => data.status !== "completed");
    const dice = this.random();
    if (dice < 0.08 || open.length === 0) return this.create();
    const message = open[this.below(open.length)];
    if (dice < 0.12) return this.tell("MessageCompleted", message, { status: "completed", structured: { sum: dice } });
    if (dice < 0.15) return this.again(message);
    if (dice < 0.18) return this.remove(message);
    if (dice < 0.21) return this.tell("MessageUpdated", message, { status: this.random() < 0.5 ? "waiting" : "streaming" });
    if (dice < 0.25) return this.turn();
    return this.add(message);
  }

  tell(event, message, fields = {}) {
    const offset = this.log.length + 1;
    const { content, ...data } = Object.assign(message.data, fields, { offset });
    this.log.push({ event, data: event === "MessageCreated" ? { ...data, content } : data });
  }

  create() {
    const messageId = `m${this.messages.size + 1}`;
    const version = this.messages.size && this.random() < 0.3 ? this.any() : null;
    const follows = version ? version.data.follows : this.leaf;
    const data = { conversationId: C, messageId, role: "assistant", status: "pending", content: "", sequence: 0, attempt: 1, follows };
    const message = { data, place: this.log.length + 1, parts: [], attempt: 1, sequence: 0, part: 0, kind: "text" };
    this.messages.set(messageId, message);
    this.leaf = message.place;
    this.tell("MessageCreated", message);
  }

  again(message) {
    message.attempt++;
    message.parts = [];
    message.part = 0;
    this.tell("MessageUpdated", message, { attempt: message.attempt, status: "pending" });
  }

  remove(message) {
    const { conversationId, messageId, follows } = message.data;
    message.gone = true;
    this.log.push({ event: "MessageDeleted", data: { conversationId, messageId, offset: this.log.length + 1, place: message.place, follows } });
  }

  /** Show another branch. */
  turn() {
    this.leaf = this.any().place;
    this.log.push({ event: "ConversationUpdated", data: { conversationId: C, offset: this.log.length + 1, title: `T${this.leaf}`, leaf: this.leaf } });
  }

  add(message) {
    const begins = message.parts.length === 0 || SILENT.includes(message.kind) || this.random() < 0.2;
    if (begins) {
      if (message.parts.length) message.part++;
      message.kind = KINDS[this.below(KINDS.length)];
    }
    const { kind, part, attempt } = message;
    if (message.data.status === "pending") message.data.status = "streaming";
    const chunk = SILENT.includes(kind) ? "" : String.fromCodePoint(0x61 + this.below(26), 0x1f600 + this.below(60));
    const facts = begins ? FACTS[kind] : {};
    message.parts.push({ part, kind, chunk, facts });
    const { id, name, ...others } = facts;
    const told = CALLS.includes(kind) ? { toolCallId: id, toolName: name, data: others } : { data: facts };
    const { conversationId, messageId } = message.data;
    const offset = this.log.length + 1;
    this.log.push({ event: "StreamUpdate", data: { conversationId, messageId, offset, sequence: ++message.sequence, chunk, kind, part, attempt, ...told } });
  }

  text(message) {
    return message.parts.filter(({ kind }) => kind === "text").map(({ chunk }) => chunk).join("");
  }

  parts(message) {
    const parts = [];
    for (const { part, kind, chunk, facts } of message.parts) {
      const grows = GROWS[kind] ?? "text";
      parts[part] = { type: kind, ...parts[part], ...facts, [grows]: (parts[part]?.[grows] ?? "") + chunk };
    }
    return parts;
  }

  /** The messages of the branch that is shown, and the offsets of the deleted ones on the way. */
  branch() {
    const places = new Map([...this.messages.values()].map((message) => [message.place, message]));
    const way = [];
    for (let message = places.get(this.leaf); message; message = places.get(message.data.follows)) way.unshift(message);
    return way.filter(({ gone }) => !gone);
  }

  /** What a client is sent that comes with a cursor. */
  catchUp(after, epoch) {
    const head = this.log.length;
    if (after === undefined || epoch !== this.epoch || after > head) return this.snapshot(head);
    return { event: "Replay", data: { conversationId: C, epoch: this.epoch, offset: head, events: this.pack(after, head) } };
  }

  snapshot(offset) {
    const shown = this.branch().reverse();
    const others = this.there.filter((message) => !shown.includes(message)).reverse();
    const chosen = [...shown, ...others].slice(0, this.limit).sort((a, b) => a.place - b.place);
    const messages = chosen.map((m) => ({ ...m.data, offset: m.place, content: this.text(m), parts: this.parts(m), sequence: m.sequence, attempt: m.attempt }));
    const gone = [...this.messages.values()].filter((m) => m.gone && m.place > (chosen[0]?.place ?? 0)).map((m) => ({ place: m.place, follows: m.data.follows }));
    const truncated = chosen.length < this.there.length;
    return { event: "Snapshot", data: { conversationId: C, epoch: this.epoch, offset, conversation: { title: `T${this.leaf}`, leaf: this.leaf }, messages, gone, truncated } };
  }

  /** One StreamUpdate per message, attempt and part, where the last of its chunks was; the conversation's state, as it is now. */
  pack(after, to) {
    const packed = new Map();
    let changed = null;
    for (const { event, data } of this.log.slice(after, to)) {
      if (event === "ConversationUpdated") {
        changed = { event, data: { ...data, leaf: this.leaf } };
        continue;
      }
      const update = event === "StreamUpdate";
      const key = update ? `${data.messageId} ${data.attempt} ${data.part}` : `event ${data.offset}`;
      const before = update && packed.get(key)?.data;
      packed.delete(key);
      packed.set(key, { event, data: before ? { ...before, ...data, data: { ...before.data, ...data.data }, chunk: before.chunk + data.chunk } : data });
      if (before?.toolCallId) Object.assign(packed.get(key).data, { toolCallId: before.toolCallId, toolName: before.toolName });
    }
    return [...packed.values(), ...(changed ? [changed] : [])];
  }
}

/** One socket's far end: sends what it is asked for, and does what networks do. */
class Line {
  position = null; // the offset this client was sent; null while it follows nothing

  constructor(server, socket) {
    this.server = server;
    this.socket = socket;
    socket.onsend = (frame) => this.hear(frame);
  }

  hear({ type, id, conversation, after, epoch }) {
    if (type === "ping") this.socket.deliver({ type: "pong", id });
    if (type !== "subscribe") return;
    this.lost = false;
    this.position = this.server.log.length;
    this.socket.deliver({ type: "subscribed", id, conversation, epoch: this.server.epoch, head: this.server.log.length, mayWrite: true });
    this.socket.deliver(this.server.catchUp(after, epoch));
  }

  step() {
    const { server, socket } = this;
    const event = server.log[this.position];
    const dice = server.random();
    if (this.position === null || !event) return;
    const to = this.position + 1 + server.below(server.log.length - this.position);
    if (dice < 0.04 && this.position) return socket.deliver(server.log[server.below(this.position)]); // doubled
    if (dice < 0.07) return this.lose();
    if (dice < 0.12 && !this.lost) return this.packed(to);
    this.position++;
    socket.deliver(event);
  }

  lose() {
    this.position++;
    this.lost = true; // a server that packs knows what it has sent
  }

  /** A slow reader gets the rest packed. */
  packed(to) {
    const events = this.server.pack(this.position, to);
    this.position = to;
    this.socket.deliver({ event: "Replay", data: { conversationId: C, epoch: this.server.epoch, offset: to, events } });
  }
}

function check(server, conversation) {
  const truth = server.branch().map((m) => [m.data.messageId, server.text(m), server.parts(m), m.data.status, m.data.structured]);
  const seen = conversation.messages.map((m) => [m.id, m.text, m.parts, m.status, m.structured]);
  assert.deepEqual(seen, conversation.truncated ? truth.slice(truth.length - seen.length) : truth);
  assert.ok(seen.length > 0 || truth.length === 0);
  assert.equal(conversation.offset, server.log.length);
  const known = server.there.filter((m) => conversation.message(m.data.messageId));
  assert.ok(conversation.truncated || known.length === server.there.length);
  for (const { data } of known) {
    const versions = known.filter((other) => other.data.follows === data.follows).map((other) => other.data.messageId);
    assert.deepEqual(conversation.versions(conversation.message(data.messageId)).map(({ id }) => id), versions);
  }
}

function live(seed) {
  const random = seeded(seed);
  const clock = new Clock();
  const net = network();
  const server = new Server(random);
  const converse = new Converse({ url: "ws://test/", WebSocket: net.WebSocket, clock, random });
  const conversation = converse.subscribe(C);
  let line = null;
  converse.listen("state", (state) => {
    if (state === "connecting") line = null;
  });
  const appended = new Map();
  conversation.listen("Snapshot", ({ messages }) => {
    appended.clear();
    messages.forEach(({ messageId, content }) => appended.set(messageId, content));
  });
  conversation.listen("MessageCreated", ({ messageId, content }) => appended.set(messageId, content));
  conversation.listen("MessageUpdated", ({ messageId, status }) => {
    if (status === "pending") appended.set(messageId, "");
  });
  // Who renders anew only at a snapshot and at a turn to another branch shows what is shown.
  let shown = [];
  const render = () => (shown = conversation.messages.map(({ id }) => id));
  conversation.listen("Snapshot", render);
  conversation.listen("branch", render);
  conversation.listen("MessageCreated", ({ messageId }) => shown.push(messageId));
  conversation.listen("MessageDeleted", ({ messageId }) => (shown = shown.filter((id) => id !== messageId)));
  conversation.listen("StreamUpdate", ({ messageId, kind, chunk }) => {
    if (kind === "text" && appended.has(messageId)) appended.set(messageId, appended.get(messageId) + chunk);
  });
  converse.connect();

  for (let i = 0; i < 400; i++) {
    const dice = random();
    if (dice < 0.4) server.grow();
    else if (dice < 0.85) line?.step();
    else if (dice < 0.9) clock.advance(random() * 3_000);
    else if (dice < 0.92) net.socket.fail([1006, 1012, 4408, 4429][server.below(4)]);
    else if (dice < 0.922) server.epoch += "'";
    else if (!line && converse.state === "connecting") {
      line = new Line(server, net.socket);
      net.socket.accept();
    }
  }

  // The weather clears: everything must come right by itself.
  for (let i = 0; i < 50 && converse.state !== "open"; i++) {
    clock.advance(clock.next);
    if (converse.state !== "connecting") continue;
    line = new Line(server, net.socket);
    net.socket.accept();
  }
  if (random() < 0.5) server.create();
  else server.turn();
  server.random = () => 0.5;
  while (line.position < server.log.length) line.step();
  check(server, conversation);
  assert.deepEqual(shown, conversation.messages.map(({ id }) => id));
  // Who only ever appended chunks has the same text.
  for (const { id, text } of conversation.messages) assert.equal(appended.get(id), text);
  return net.sockets.length;
}

test(`what is assembled equals the log, in ${SEEDS} worlds`, () => {
  let sockets = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    try {
      sockets += live(seed);
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
  assert.ok(sockets > 3 * SEEDS, "the worlds were too kind");
});
