/**
 * The browser's side of Converse: one websocket, any number of conversations, nothing lost and nothing doubled.
 *
 *     const converse = new Converse();
 *     const conversation = converse.subscribe(uuid);
 *     conversation.listen("StreamUpdate", ({ messageId, chunk }) => bubble(messageId).append(chunk));
 *     converse.connect();
 *     await conversation.send("Why is the sky blue?");
 *
 * Frames, events and close codes: docs/reference/websocket.md and docs/reference/events.md.
 * Names in CapWords come from the server; names in lower case are about the connection.
 *
 * @module
 */

// Milliseconds, unless it says otherwise.
const FIRST_RETRY = 250;
const LAST_RETRY = 8_000;
const QUIET = 20_000; // without a frame before we ask whether anybody is there
const PATIENCE = 8_000; // for the answer, and for a socket to open
const ACK_BYTES = 32_000;
const ACK_INTERVAL = 1_000;
const TYPING_INTERVAL = 2_000;
const WAKE_INTERVAL = 1_000; // a network that comes and goes is not to have us knock each time

const TOO_LARGE = [1009, 4413]; // the first is a server's own
const SLOW_DOWN = [1013, 4429];
const REFUSED = [4401, 4403];

// What we answer ourselves.
const CLOSED = { type: "error", code: "closed", reason: "The connection was closed." };
const REFUSAL = { type: "error", code: "refused", reason: "The server refused the connection." };
const OVERSIZE = { type: "error", code: "too_large", reason: "The message is too long." };

/** An answer that says no. `code` is one of the protocol's, or `closed`, `refused` or `too_large`. */
export class ConverseError extends Error {
  /** @param {{code: string, reason?: string, field?: string}} answer */
  constructor({ code, reason = "", field }) {
    super(reason || code);
    this.name = "ConverseError";
    this.code = code;
    this.reason = reason;
    this.field = field;
  }
}

class Emitter extends EventTarget {
  /**
   * Call back with an event's data each time it comes.
   * @param {string} name
   * @param {(data: any) => void} callback
   * @returns {() => void} stops listening
   */
  listen(name, callback) {
    const listener = (event) => callback(event.detail);
    this.addEventListener(name, listener);
    return () => this.removeEventListener(name, listener);
  }

  /** @internal */
  announce(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/**
 * One part of a message, in the order in which it was streamed. `text`, `reasoning` and `refusal` have `text`;
 * `tool_call` has `id`, `name` and `arguments`; `approval` has `id`, `name`, a `text` of `approved` or `denied`, and a
 * `reason`; `tool_result` has `id`, `name`, `output` and, if so, `isError`; `source` has `url`, `title` and `text`; `file` has `attachment`, `name`, `mimeType` and `size`.
 * @typedef {{type: string, text?: string, id?: string, name?: string, arguments?: string, output?: string}} Part
 */

/**
 * A call of a tool, and what became of it. `state` is `writing` (its arguments are), `waiting` (for a person's
 * decision), `approved` (but others still wait), `denied`, `running`, `done`, `failed` or `stopped`.
 * @typedef {{id: string, name: string, arguments: string, state: string, decision?: string, reason?: string, output?: string}} Call
 */

/** Where the text of a part grows. */
const GROWS = { tool_call: "arguments", tool_result: "output" };

/** A message as far as it is known. Beside its own fields it has those of the message events. */
export class Message {
  /** @type {Part[]} */
  parts = [];
  attempt = 1;
  follows = 0;
  status = "pending";
  #held = 0; // the last chunk that a whole content had in it

  /**
   * @param {string} id
   * @param {number} offset its place in the log
   */
  constructor(id, offset) {
    this.id = id;
    this.offset = offset;
  }

  /** What the message says; reasoning, refusals, calls of tools and the like are in `parts`. */
  get text() {
    return this.parts.reduce((text, part) => (part.type === "text" ? text + part.text : text), "");
  }

  /** The calls of tools. @returns {Call[]} in order */
  get calls() {
    const calls = [];
    for (const part of this.parts) {
      if (part?.type === "tool_call") calls.push({ ...part });
      const call = calls.find(({ id, output }) => id === part?.id && output === undefined);
      if (part?.type === "approval") Object.assign(call ?? {}, { decision: part.text, reason: part.reason });
      else if (part?.type === "tool_result") Object.assign(call ?? {}, { output: part.output, isError: part.isError });
    }
    for (const call of calls) call.state = this.#stateOf(call);
    return calls;
  }

  #stateOf({ arguments: given, decision, output, isError }) {
    if (decision === "denied") return "denied";
    if (output !== undefined) return isError ? "failed" : "done";
    if (!this.isOpen) return "stopped";
    if (this.status === "waiting") return decision ?? "waiting";
    if (decision) return "running";
    return !given || isJson(given) ? "running" : "writing";
  }

  get isOpen() {
    return ["pending", "streaming", "waiting"].includes(this.status);
  }

  /** @internal Take over the fields of a message event. */
  update({ conversationId, messageId, offset, content, parts, sequence, ...fields }) {
    this.#reach(fields.attempt);
    Object.assign(this, fields);
    if (content === undefined) return;
    this.#held = sequence;
    this.parts = parts ?? (content ? [{ type: "text", text: content }] : []);
  }

  /** @internal Take over a StreamUpdate. */
  append({ chunk, sequence, kind, part: number, attempt, toolCallId: id, toolName: name, data }) {
    this.#reach(attempt);
    if (attempt < this.attempt || sequence <= this.#held) return;
    if (this.status === "pending") this.status = "streaming";
    const grows = GROWS[kind] ?? "text";
    const part = (this.parts[number] ??= { type: kind, [grows]: "" });
    part[grows] += chunk;
    Object.assign(part, id && { id }, name && { name }, data);
  }

  /** A new attempt starts from nothing. */
  #reach(attempt) {
    if (!(attempt > this.attempt)) return;
    this.attempt = attempt;
    this.parts = [];
    this.#held = 0;
  }
}

/**
 * One conversation as this reader knows it: `messages` in order, `title`, and the cursor (`offset`, `epoch`).
 *
 * Announces each event of the server by its name, after applying it. `Snapshot` means: all is new, render `messages`
 * again. `branch` means: other messages are shown now than those of before and a new one at their end. Besides:
 * `subscribed` when the server has let the reader in, with `{mayWrite}`; `refused` when the subscription failed for
 * good, and `unsubscribed` when the right to read was withdrawn, both with `{code, reason}`.
 */
export class Conversation extends Emitter {
  #converse;
  #messages = new Map(); // id -> message, on whatever branch
  #places = new Map(); // offset -> message
  #gone = new Map(); // offset of a deleted message -> what it followed
  #leaf = 0; // offset of the last message that is shown
  #path = null; // the messages that are shown; null when they must be looked for anew
  #presence;
  #synced = false;
  #gap = null; // the cursor at the last gap
  #unacknowledged = 0; // bytes
  #acknowledged = { offset: null, at: 0 };
  #ackTimer = null;
  #typedAt = -TYPING_INTERVAL;

  title = "";
  truncated = false;
  mayWrite = true; // until the server says otherwise

  /** @internal Use Converse.subscribe(). */
  constructor(converse, uuid, { after = null, epoch = null, presence = false } = {}) {
    super();
    this.uuid = uuid;
    this.offset = after;
    this.epoch = epoch;
    this.#converse = converse;
    this.#presence = presence;
  }

  /** The messages of the branch that is shown. @returns {Message[]} oldest first */
  get messages() {
    this.#path ??= this.#walk();
    return [...this.#path];
  }

  /** @returns {Message | undefined} on whatever branch */
  message(id) {
    return this.#messages.get(id);
  }

  /**
   * The versions of a message: those that follow the same one, itself among them.
   * @param {Message} message
   * @returns {Message[]} oldest first
   */
  versions({ role, follows }) {
    return [...this.#messages.values()].filter((other) => other.role === role && other.follows === follows);
  }

  /**
   * Say something and have it answered. Stored once, however often the connection breaks meanwhile.
   * @param {string} content
   * @param {{clientId?: string, provider?: string, policy?: string, attachments?: string[]}} [options]
   * @returns {Promise<{message: string, reply: string}>} the uuids of the turn and its reply
   */
  send(content, { clientId = newId(), ...options } = {}) {
    return this.#converse.command({ type: "send", conversation: this.uuid, content, clientId, ...options });
  }

  /**
   * Say something else in place of a turn, on a branch of its own, and have that answered.
   * @param {string} messageId
   * @param {string} content
   * @param {{clientId?: string, provider?: string, policy?: string, attachments?: string[]}} [options] without
   *   `attachments` it keeps those it had
   * @returns {Promise<{message: string, reply: string}>}
   */
  edit(messageId, content, { clientId = newId(), ...options } = {}) {
    return this.#converse.command({ type: "edit", message: messageId, content, clientId, ...options });
  }

  /**
   * Have the turn that a reply answered answered again, on a branch of its own.
   * @param {string} messageId
   * @param {{clientId?: string, provider?: string, policy?: string}} [options]
   * @returns {Promise<{message: string, reply: string}>}
   */
  retry(messageId, { clientId = newId(), ...options } = {}) {
    return this.#converse.command({ type: "retry", message: messageId, clientId, ...options });
  }

  /** Show the branch of a message, here and to all others. @returns {Promise<{message: string, leaf: number}>} */
  switch(messageId) {
    return this.#converse.command({ type: "switch", message: messageId });
  }

  /**
   * Let a reply make a call of a tool that it waits with. Every reader is told the reason.
   * @returns {Promise<{message: string, call: string, decision: string}>}
   */
  approve(messageId, callId, reason = "") {
    return this.#converse.command({ type: "approve", message: messageId, call: callId, reason });
  }

  /** Have a reply go on without a call that it waits with. The model is told the reason too. See approve(). */
  deny(messageId, callId, reason = "") {
    return this.#converse.command({ type: "deny", message: messageId, call: callId, reason });
  }

  /**
   * Stop a reply, keeping what came of it so far.
   * @returns {Promise<{message: string, status: string}>}
   */
  stop(messageId) {
    return this.#converse.command({ type: "stop", message: messageId });
  }

  /** Tell the others that somebody is typing here. Call it on every key. */
  typing() {
    if (this.#converse.clock.now() - this.#typedAt < TYPING_INTERVAL) return;
    this.#typedAt = this.#converse.clock.now();
    this.#converse.write({ type: "typing", conversation: this.uuid });
  }

  /** Stop following this conversation. */
  leave() {
    this.#converse.write({ type: "unsubscribe", conversation: this.uuid });
    this.forget();
  }

  /** @internal Ask for everything after the cursor. */
  follow({ afresh = false } = {}) {
    this.#synced = false;
    const cursor = afresh || this.offset === null ? {} : { after: this.offset, epoch: this.epoch ?? undefined };
    const presence = this.#presence || undefined;
    this.#converse.ask({ type: "subscribe", conversation: this.uuid, presence, ...cursor }, (answer) => {
      if (answer.type !== "error") this.#begin(answer);
      else if (answer.code === "server_error") this.#converse.followLater(this);
      else this.forget("refused", answer);
    });
  }

  #begin(answer) {
    this.#synced = true;
    this.mayWrite = answer.mayWrite;
    this.announce("subscribed", answer);
  }

  /** @internal The connection is gone. */
  rest() {
    this.#converse.clock.clearTimeout(this.#ackTimer);
  }

  /** @internal */
  forget(name, detail) {
    this.rest();
    this.#converse.drop(this);
    if (name) this.announce(name, detail);
  }

  /** @internal Take a frame with an event of this conversation; `size` is its length. */
  receive({ event, data }, size) {
    if (data.offset === undefined) return this.announce(event, data);
    if (!this.#synced) return; // left over from before the gap
    if (event === "Snapshot") this.#restore(data);
    else if (event === "Replay") this.#replay(data);
    else if (data.offset > this.offset + 1) return this.#mend();
    else if (data.offset > this.offset) this.#next(event, data);
    this.#acknowledge(size);
  }

  #restore(data) {
    this.#messages.clear();
    this.#places.clear();
    this.#gone = new Map(data.gone?.map(({ place, follows }) => [place, follows]));
    for (const message of data.messages) this.#apply("MessageCreated", message);
    this.title = data.conversation.title;
    this.#show(data.conversation.leaf);
    this.truncated = Boolean(data.truncated);
    this.#reach(data);
    this.announce("Snapshot", data);
  }

  #replay(data) {
    for (const { event, data: inner } of data.events) {
      if (inner.offset > this.offset) this.#take(event, inner);
    }
    if (data.offset > this.offset) this.#reach(data);
    this.announce("Replay", data);
  }

  #next(event, data) {
    this.#reach(data);
    this.#take(event, data);
  }

  #reach({ offset, epoch = this.epoch }) {
    this.offset = offset;
    this.epoch = epoch;
  }

  #take(event, data) {
    const before = this.#leaf;
    this.#apply(event, data);
    this.announce(event, data);
    if (this.#leaf === before || data.follows === before) return;
    if (this.truncated) this.follow({ afresh: true }); // more of this branch than of the former one may be unknown
    this.announce("branch", data);
  }

  #apply(event, data) {
    const { messageId: id, offset } = data;
    if (event === "MessageCreated" && !this.#messages.has(id)) {
      const message = new Message(id, offset);
      this.#messages.set(id, message);
      this.#places.set(offset, message);
      this.#show(offset);
    }
    // A message we do not have is older than what the snapshot showed.
    if (event === "StreamUpdate") this.#messages.get(id)?.append(data);
    else if (event === "MessageDeleted") this.#remove(data);
    else if (id) this.#messages.get(id)?.update(data);
    else {
      this.title = data.title;
      this.#turn(data);
    }
  }

  #remove({ messageId, place, follows }) {
    this.#messages.delete(messageId);
    this.#places.delete(place);
    this.#gone.set(place, follows);
    this.#path = null;
  }

  /** The conversation shows this branch now. One not known yet is yet to come, or older than what the snapshot showed. */
  #turn({ leaf, offset }) {
    if (!leaf || this.#places.has(leaf) || this.#gone.has(leaf)) this.#show(leaf);
    else if (leaf < offset) this.follow({ afresh: true });
  }

  #show(leaf) {
    this.#leaf = leaf;
    this.#path = null;
  }

  #walk() {
    const path = [];
    for (let place = this.#leaf; place; ) {
      const message = this.#places.get(place);
      if (message) path.push(message);
      place = message ? message.follows : this.#gone.get(place);
    }
    return path.reverse();
  }

  /** Something is missing: read on from the cursor, or, if that did not help before, from nothing. */
  #mend() {
    const afresh = this.#gap === this.offset;
    this.#gap = this.offset;
    this.follow({ afresh });
  }

  #acknowledge(size) {
    const { clock } = this.#converse;
    this.#unacknowledged += size;
    clock.clearTimeout(this.#ackTimer);
    const wait = this.#acknowledged.at + ACK_INTERVAL - this.#converse.clock.now();
    if (this.#unacknowledged < ACK_BYTES && wait > 0) {
      this.#ackTimer = clock.setTimeout(() => this.#acknowledge(0), wait);
    } else if (this.#acknowledged.offset !== this.offset) {
      this.#unacknowledged = 0;
      this.#acknowledged = { offset: this.offset, at: this.#converse.clock.now() };
      this.#converse.write({ type: "ack", conversation: this.uuid, offset: this.offset });
    }
  }
}

/**
 * The connection. Comes back by itself until close(), or until the server refuses it for good.
 *
 * Announces `state` with `connecting`, `open`, `waiting`, `closed` or `refused`, and `refused` with `{code, reason}`.
 */
export class Converse extends Emitter {
  #WebSocket;
  #random;
  #conversations = new Map();
  #pending = new Map(); // id -> {frame, answered, keep}, in the order asked
  #lastId = 0;
  #socket = null;
  #retries = 0;
  #timer = null; // to try again while there is no socket, to look after it while there is one
  #heardAt = 0;
  #pingedAt = null;
  #pieces = ""; // of a frame too large for one
  #wokenAt = -WAKE_INTERVAL;
  #isSlowed = false; // the server asked for time
  #wake = () => this.#lookAlive();
  #doubt = () => this.#askAlive();

  state = "closed";

  /**
   * @param {object} [options]
   * @param {string} [options.url] relative to the page
   * @param {typeof globalThis.WebSocket} [options.WebSocket]
   * @param {Pick<typeof globalThis, "setTimeout" | "clearTimeout"> & {now(): number}} [options.clock]
   * @param {() => number} [options.random]
   */
  constructor({ url = "/converse/ws/", WebSocket = globalThis.WebSocket, clock = realClock, random = Math.random } = {}) {
    super();
    this.url = new URL(url, globalThis.location?.href.replace(/^http/, "ws")).href;
    this.#WebSocket = WebSocket;
    this.#random = random;
    this.clock = clock;
  }

  /** Open the connection, and keep it open. */
  connect() {
    if (this.#socket || this.state === "waiting") return;
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.addEventListener?.("offline", this.#doubt);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
    this.#open();
  }

  /** End the connection. Conversations keep their cursors, commands without an answer are rejected. */
  close() {
    this.#letGo(1000);
    this.#end("closed", CLOSED);
  }

  /**
   * Follow a conversation; one already followed is returned as it is.
   * @param {string} uuid
   * @param {{after?: number, epoch?: string, presence?: boolean}} [options] `after` and `epoch` to resume a cursor
   * @returns {Conversation}
   */
  subscribe(uuid, options) {
    const known = this.#conversations.get(uuid);
    if (known) return known;
    const conversation = new Conversation(this, uuid, options);
    this.#conversations.set(uuid, conversation);
    if (this.state === "open") conversation.follow();
    return conversation;
  }

  /** @internal Promise an answer, however many connections it takes: for commands that may arrive twice without harm. */
  command(frame) {
    return new Promise((resolve, reject) => {
      const answered = (answer) => (answer.type === "error" ? reject(new ConverseError(answer)) : resolve(answer));
      if (this.state === "refused") answered(REFUSAL);
      else this.ask(frame, answered, true);
    });
  }

  /** @internal */
  ask(frame, answered, keep = false) {
    const id = ++this.#lastId;
    this.#pending.set(id, { frame: { ...frame, id }, answered, keep });
    this.write(this.#pending.get(id).frame);
  }

  /** @internal */
  write(frame) {
    if (this.state === "open") this.#socket.send(JSON.stringify(frame));
  }

  /** @internal */
  drop(conversation) {
    if (this.#follows(conversation)) this.#conversations.delete(conversation.uuid);
  }

  /** @internal */
  followLater(conversation) {
    const follow = () => this.state === "open" && this.#follows(conversation) && conversation.follow();
    this.clock.setTimeout(follow, this.#pause(5));
  }

  #follows(conversation) {
    return this.#conversations.get(conversation.uuid) === conversation;
  }

  #open() {
    this.#setTimer(() => this.#lost(), PATIENCE);
    const socket = (this.#socket = new this.#WebSocket(this.url));
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    this.#setState("connecting");
  }

  #opened() {
    const unanswered = [...this.#pending.values()];
    this.state = "open";
    this.#heardAt = this.clock.now();
    this.#lookAfter();
    for (const conversation of this.#conversations.values()) conversation.follow();
    for (const { frame } of unanswered) this.write(frame);
    this.#setState("open");
  }

  #receive(text) {
    this.#heardAt = this.clock.now();
    this.#retries = 0;
    const frame = JSON.parse(text);
    if (frame.type === "piece") return this.#join(frame);
    if (frame.event) return this.#conversations.get(frame.data.conversationId)?.receive(frame, text.length);
    const asked = this.#pending.get(frame.id);
    this.#pending.delete(frame.id);
    if (asked) asked.answered(frame);
    else if (frame.type === "unsubscribed" && frame.code) {
      this.#conversations.get(frame.conversation)?.forget("unsubscribed", frame);
    }
  }

  #join({ text, more }) {
    const whole = this.#pieces + text;
    this.#pieces = more ? whole : "";
    if (!more) this.#receive(whole);
  }

  #lost(code, reason) {
    this.#letGo();
    if (TOO_LARGE.includes(code)) this.#giveUpLargest();
    if (REFUSED.includes(code)) {
      this.#end("refused", REFUSAL);
      return this.announce("refused", { code, reason });
    }
    this.#isSlowed = SLOW_DOWN.includes(code);
    if (this.#isSlowed) this.#retries = Math.max(this.#retries, 4);
    this.#setTimer(() => this.#open(), this.#pause(++this.#retries));
    this.#setState("waiting");
  }

  /** Longer each time, and never the same for all who lost the same server. */
  #pause(retries) {
    const longest = Math.min(LAST_RETRY, FIRST_RETRY * 2 ** retries);
    return FIRST_RETRY + this.#random() * (longest - FIRST_RETRY);
  }

  /** Let go of the socket. It may be dead, and would then tell us so in minutes only. */
  #letGo(code) {
    this.#clearTimer();
    for (const conversation of this.#conversations.values()) conversation.rest();
    for (const [id, { keep }] of this.#pending) if (!keep) this.#pending.delete(id);
    const socket = this.#socket;
    this.#socket = null;
    this.#pingedAt = null;
    this.#pieces = "";
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }

  #end(state, error) {
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.removeEventListener?.("offline", this.#doubt);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    const unanswered = [...this.#pending.values()];
    this.#pending.clear();
    this.#setState(state);
    for (const { answered } of unanswered) answered(error);
  }

  /** A command too long for the server would end every connection. */
  #giveUpLargest() {
    const length = ({ frame }) => JSON.stringify(frame).length;
    const [largest] = [...this.#pending.values()].sort((a, b) => length(b) - length(a));
    if (!largest) return;
    this.#pending.delete(largest.frame.id);
    largest.answered(OVERSIZE);
  }

  /** Ping a quiet connection, and leave one that does not answer. */
  #lookAfter() {
    const quiet = this.clock.now() - this.#heardAt;
    if (this.#pingedAt !== null && this.#heardAt <= this.#pingedAt) return this.#lost();
    this.#pingedAt = null;
    if (quiet < QUIET) return this.#setTimer(() => this.#lookAfter(), QUIET - quiet);
    this.#ping();
  }

  #ping() {
    this.#pingedAt = this.clock.now();
    this.write({ type: "ping" });
    this.#setTimer(() => this.#lookAfter(), PATIENCE);
  }

  /** The network is back, or the page is looked at again. */
  #lookAlive() {
    if (globalThis.document?.visibilityState === "hidden") return;
    const now = this.clock.now();
    if (this.state !== "waiting" || this.#isSlowed || now - this.#wokenAt < WAKE_INTERVAL) return this.#askAlive();
    this.#wokenAt = now;
    this.#open();
  }

  #askAlive() {
    if (this.state === "open" && this.#pingedAt === null) this.#ping();
  }

  #setState(state) {
    this.state = state;
    this.announce("state", state);
  }

  #setTimer(callback, delay) {
    this.#clearTimer();
    this.#timer = this.clock.setTimeout(callback, delay);
  }

  #clearTimer() {
    this.clock.clearTimeout(this.#timer);
  }
}

const realClock = {
  now: () => performance.now(),
  setTimeout: (callback, delay) => globalThis.setTimeout(callback, delay),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** A new client id. crypto.randomUUID would do, but exists in secure contexts only. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
