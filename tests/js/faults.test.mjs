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
const KINDS = ["text", "reasoning", "tool_call"];
const SEEDS = Number(process.env.SEEDS ?? 300);

class Server {
  log = []; // events; an event's offset is its index + 1
  epoch = "e1";
  messages = new Map(); // id -> {data, parts, attempt, sequence, part}: the truth

  constructor(random) {
    this.random = random;
  }

  below(n) {
    return Math.floor(this.random() * n);
  }

  /** Add one random event to the log. */
  grow() {
    const open = [...this.messages.values()].filter(({ data }) => data.status !== "completed");
    const dice = this.random();
    if (dice < 0.08 || open.length === 0) return this.create();
    const message = open[this.below(open.length)];
    if (dice < 0.12) return this.tell("MessageCompleted", message, { status: "completed" });
    if (dice < 0.15) return this.again(message);
    if (dice < 0.17) return this.remove(message);
    return this.add(message);
  }

  tell(event, message, fields = {}) {
    const offset = this.log.length + 1;
    const { content, ...data } = Object.assign(message.data, fields, { offset });
    this.log.push({ event, data: event === "MessageCreated" ? { ...data, content } : data });
  }

  create() {
    const messageId = `m${this.messages.size + 1}`;
    const data = { conversationId: C, messageId, role: "assistant", status: "pending", content: "", sequence: 0, attempt: 1 };
    const message = { data, parts: [], attempt: 1, sequence: 0, part: 0 };
    this.messages.set(messageId, message);
    this.tell("MessageCreated", message);
  }

  again(message) {
    message.attempt++;
    message.parts = [];
    message.part = 0;
    this.tell("MessageUpdated", message, { attempt: message.attempt, status: "pending" });
  }

  remove(message) {
    const { conversationId, messageId } = message.data;
    this.messages.delete(messageId);
    this.log.push({ event: "MessageDeleted", data: { conversationId, messageId, offset: this.log.length + 1 } });
    this.messages.set(`gone${this.log.length}`, { ...message, data: { ...message.data, status: "completed" }, gone: true });
  }

  add(message) {
    if (message.parts.length && this.random() < 0.2) message.part++;
    const kind = KINDS[message.part % 3];
    const chunk = String.fromCodePoint(0x61 + this.below(26), 0x1f600 + this.below(60));
    const { conversationId, messageId } = message.data;
    message.parts.push({ part: message.part, kind, chunk });
    this.log.push({
      event: "StreamUpdate",
      data: { conversationId, messageId, offset: this.log.length + 1, sequence: ++message.sequence, chunk, kind, part: message.part, attempt: message.attempt },
    });
  }

  text(message) {
    return message.parts.filter(({ kind }) => kind === "text").map(({ chunk }) => chunk).join("");
  }

  parts(message) {
    const parts = [];
    for (const { part, kind, chunk } of message.parts) {
      const [field, before] = kind === "tool_call" ? ["arguments", parts[part]?.arguments] : ["text", parts[part]?.text];
      parts[part] = { type: kind, [field]: (before ?? "") + chunk };
    }
    return parts;
  }

  /** What a client is sent that comes with a cursor. */
  catchUp(after, epoch) {
    const head = this.log.length;
    if (after === undefined || epoch !== this.epoch || after > head) return this.snapshot(head);
    return { event: "Replay", data: { conversationId: C, epoch: this.epoch, offset: head, events: this.pack(after, head) } };
  }

  snapshot(offset) {
    const there = [...this.messages.values()].filter(({ gone }) => !gone);
    const messages = there.map((m) => ({ ...m.data, content: this.text(m), parts: this.parts(m), sequence: m.sequence, attempt: m.attempt }));
    return { event: "Snapshot", data: { conversationId: C, epoch: this.epoch, offset, conversation: { title: "" }, messages } };
  }

  /** One StreamUpdate per message, attempt and part, where the last of its chunks was. */
  pack(after, to) {
    const packed = new Map();
    for (const { event, data } of this.log.slice(after, to)) {
      const key = event === "StreamUpdate" ? `${data.messageId} ${data.attempt} ${data.part}` : `event ${data.offset}`;
      const chunk = (packed.get(key)?.data.chunk ?? "") + (data.chunk ?? "");
      packed.delete(key);
      packed.set(key, { event, data: event === "StreamUpdate" ? { ...data, chunk } : data });
    }
    return [...packed.values()];
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
    this.socket.deliver({ type: "subscribed", id, conversation, epoch: this.server.epoch, head: this.server.log.length });
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
  const truth = [...server.messages.values()].filter(({ gone }) => !gone).map((m) => [m.data.messageId, server.text(m), server.parts(m), m.data.status === "completed"]);
  const seen = conversation.messages.map((m) => [m.id, m.text, m.parts, m.status === "completed"]);
  assert.deepEqual(seen, truth);
  assert.equal(conversation.offset, server.log.length);
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
  conversation.listen("Snapshot", () => {
    appended.clear();
    conversation.messages.forEach((m) => appended.set(m.id, m.text));
  });
  conversation.listen("MessageCreated", ({ messageId, content }) => appended.set(messageId, content));
  conversation.listen("MessageUpdated", ({ messageId }) => appended.set(messageId, ""));
  conversation.listen("StreamUpdate", ({ messageId, kind, chunk }) => {
    if (kind === "text") appended.set(messageId, appended.get(messageId) + chunk);
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
  server.create();
  server.random = () => 0.5;
  while (line.position < server.log.length) line.step();
  check(server, conversation);
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
