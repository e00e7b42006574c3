import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { Converse, ConverseError } from "../../converse/static/converse/converse.js";
import { Clock, network } from "./world.mjs";

const C = "11111111-1111-1111-1111-111111111111";
const OTHER = "22222222-2222-2222-2222-222222222222";
const M = "33333333-3333-3333-3333-333333333333";

let clock, net, converse, conversation, events;

const created = (offset, fields = {}) => ({
  event: "MessageCreated",
  data: { conversationId: C, messageId: M, offset, role: "assistant", status: "pending", content: "", sequence: 0, attempt: 1, ...fields },
});
const update = (offset, sequence, chunk, fields = {}) => ({
  event: "StreamUpdate",
  data: { conversationId: C, messageId: M, offset, sequence, chunk, kind: "text", part: 0, attempt: 1, ...fields },
});
const closed = (event, offset, fields = {}) => ({
  event,
  data: { conversationId: C, messageId: M, offset, role: "assistant", status: event.slice(7).toLowerCase(), sequence: 9, attempt: 1, ...fields },
});
const snapshot = (offset, messages = [], { leaf = messages.at(-1)?.data.offset ?? 0, ...fields } = {}) => ({
  event: "Snapshot",
  data: { conversationId: C, epoch: "e1", offset, conversation: { title: "Sky", deleted: false, leaf }, messages: messages.map((m) => m.data), gone: [], ...fields },
});
const turned = (offset, leaf) => ({ event: "ConversationUpdated", data: { conversationId: C, offset, title: "Sky", leaf } });
const replay = (offset, inner) => ({ event: "Replay", data: { conversationId: C, epoch: "e1", offset, events: inner } });

/** Answer the last subscribe, and say what is there. */
function subscribed(...frames) {
  const { id, conversation } = net.socket.sentOf("subscribe").at(-1);
  net.socket.deliver({ type: "subscribed", id, conversation, epoch: "e1", head: 0, mayWrite: true });
  for (const frame of frames) net.socket.deliver(frame);
}

function reconnect() {
  clock.advance(clock.next);
  net.socket.accept();
}

const text = () => conversation.message(M)?.text;

beforeEach(() => {
  clock = new Clock();
  net = network();
  converse = new Converse({ url: "ws://test/converse/ws/", WebSocket: net.WebSocket, clock, random: () => 0.5 });
  conversation = converse.subscribe(C);
  events = [];
  const names = ["StreamUpdate", "MessageCreated", "MessageCompleted", "MessageUpdated", "Replay", "Snapshot", "Typing", "refused", "unsubscribed"];
  for (const name of names) conversation.listen(name, (data) => events.push([name, data]));
});

/** Open, subscribe, and have one empty open message at offset 1. */
function open() {
  converse.connect();
  net.socket.accept();
  subscribed(snapshot(1, [created(1)]));
}

describe("the text", () => {
  test("comes from the snapshot and goes on with each update", () => {
    converse.connect();
    net.socket.accept();
    subscribed(snapshot(5, [created(2, { content: "Once", sequence: 2, status: "streaming" })]), update(6, 3, " upon"));
    assert.equal(text(), "Once upon");
    assert.equal(conversation.message(M).parts.length, 1);
    assert.equal(conversation.title, "Sky");
    assert.equal(conversation.message(M).status, "streaming");
    assert.deepEqual([conversation.offset, conversation.epoch], [6, "e1"]);
  });

  test("may be written by who has the right to, as the server says", () => {
    const told = [];
    conversation.listen("subscribed", ({ mayWrite }) => told.push(mayWrite));
    open();
    assert.ok(conversation.mayWrite);
    net.socket.fail();
    reconnect();
    const { id } = net.socket.sentOf("subscribe").at(-1);
    net.socket.deliver({ type: "subscribed", id, conversation: C, epoch: "e1", head: 1, mayWrite: false });
    assert.equal(conversation.mayWrite, false);
    assert.deepEqual(told, [true, false]);
  });

  test("is not doubled by an event that comes twice", () => {
    open();
    for (const frame of [update(2, 1, "a"), update(2, 1, "a"), update(3, 2, "b"), update(2, 1, "a")]) net.socket.deliver(frame);
    assert.equal(text(), "ab");
    assert.equal(events.filter(([name]) => name === "StreamUpdate").length, 2);
  });

  test("is not doubled by a message that already holds it", () => {
    open();
    net.socket.deliver(replay(9, [created(2, { messageId: "m2", content: "abc", sequence: 3 }), update(5, 3, "abc", { messageId: "m2" })]));
    assert.equal(conversation.message("m2").text, "abc");
  });

  test("keeps reasoning, refusals and tool calls apart", () => {
    open();
    const frames = [
      update(2, 1, "Hm", { kind: "reasoning", part: 0 }),
      update(3, 2, "It is", { part: 1 }),
      update(4, 3, '{"q":', { kind: "tool_call", part: 2, toolCallId: "t1", toolName: "look" }),
      update(5, 4, "1}", { kind: "tool_call", part: 2 }),
      update(6, 5, " blue", { part: 3 }),
    ];
    frames.forEach((frame) => net.socket.deliver(frame));
    assert.equal(text(), "It is blue");
    assert.deepEqual(conversation.message(M).parts, [
      { type: "reasoning", text: "Hm" },
      { type: "text", text: "It is" },
      { type: "tool_call", arguments: '{"q":1}', id: "t1", name: "look" },
      { type: "text", text: " blue" },
    ]);
    const { parts } = conversation.message(M);
    net.socket.deliver(snapshot(6, [created(1, { content: text(), sequence: 5, parts: structuredClone(parts) })]));
    net.socket.deliver(update(7, 6, "!", { part: 3 }));
    assert.deepEqual(conversation.message(M).parts[2], parts[2]);
    assert.equal(text(), "It is blue!");
  });

  test("starts from nothing with a new attempt", () => {
    open();
    net.socket.deliver(update(2, 1, "wrong"));
    net.socket.deliver(closed("MessageUpdated", 3, { status: "pending", attempt: 2 }));
    assert.equal(text(), "");
    net.socket.deliver(update(4, 1, "right", { attempt: 2 }));
    net.socket.deliver(update(5, 2, "!", { attempt: 3 }));
    assert.equal(text(), "!");
    net.socket.deliver(update(6, 3, "wrong again", { attempt: 2 }));
    assert.equal(text(), "!");
  });

  test("stays when the message closes, and its particulars come with it", () => {
    open();
    net.socket.deliver(update(2, 1, "Hi"));
    assert.ok(conversation.message(M).isOpen);
    net.socket.deliver(closed("MessageFailed", 3, { error: { type: "timeout", message: "Too slow." }, usage: { inputTokens: 3 } }));
    assert.equal(text(), "Hi");
    assert.ok(!conversation.message(M).isOpen);
    assert.deepEqual(conversation.message(M).error, { type: "timeout", message: "Too slow." });
  });

  test("is gone with its message", () => {
    open();
    net.socket.deliver({ event: "MessageDeleted", data: { conversationId: C, messageId: M, offset: 2, place: 1, follows: 0 } });
    assert.deepEqual(conversation.messages, []);
  });

  test("of a message older than the snapshot is left alone", () => {
    open();
    net.socket.deliver(update(2, 7, "tail", { messageId: "older" }));
    assert.equal(conversation.message("older"), undefined);
    assert.equal(conversation.offset, 2);
  });

  test("of two conversations does not mix", () => {
    open();
    const other = converse.subscribe(OTHER);
    subscribed();
    const theirs = snapshot(1, [created(1, { content: "theirs" })]);
    net.socket.deliver({ ...theirs, data: { ...theirs.data, conversationId: OTHER } });
    assert.equal(other.message(M).text, "theirs");
    assert.equal(text(), "");
  });

  test("follows a change of title", () => {
    open();
    net.socket.deliver({ event: "ConversationUpdated", data: { conversationId: C, offset: 2, title: "Sea", leaf: 1 } });
    assert.equal(conversation.title, "Sea");
  });

  test("may come in pieces, which are nothing until they are whole", () => {
    open();
    const whole = JSON.stringify(update(2, 1, 'a "long" one\n🙂'));
    const cut = [whole.slice(0, 60), whole.slice(60, 100), whole.slice(100)];
    cut.slice(0, 2).forEach((text) => net.socket.deliver({ type: "piece", text, more: true }));
    net.socket.deliver({ type: "pong" }); // may come in between
    assert.equal(text(), "");
    net.socket.deliver({ type: "piece", text: cut[2], more: false });
    assert.equal(text(), 'a "long" one\n🙂');
    net.socket.deliver({ type: "piece", text: "half of one", more: true });
    net.socket.fail();
    reconnect();
    subscribed(replay(2, []), update(3, 2, "!"));
    net.socket.deliver({ type: "piece", text: JSON.stringify(update(4, 3, "?")), more: false });
    assert.equal(text(), 'a "long" one\n🙂!?');
  });
});

describe("a reply that calls tools", () => {
  const call = (offset, part, id, chunk = "{}") => update(offset, offset - 1, chunk, { kind: "tool_call", part, toolCallId: id, toolName: "look" });
  const approval = (offset, part, id, chunk, reason = "") => update(offset, offset - 1, chunk, { kind: "approval", part, toolCallId: id, toolName: "look", data: { reason } });
  const result = (offset, part, id, chunk, data) => update(offset, offset - 1, chunk, { kind: "tool_result", part, toolCallId: id, toolName: "look", data });
  const states = () => conversation.message(M).calls.map(({ id, state }) => `${id} ${state}`);
  const deliver = (...frames) => frames.forEach((frame) => net.socket.deliver(frame));

  test("has them with what became of each", () => {
    open();
    deliver(closed("MessageUpdated", 2, { status: "streaming" }), call(3, 0, "a", '{"q": '));
    assert.deepEqual(states(), ["a writing"]);
    deliver(update(4, 3, "1}", { kind: "tool_call", part: 0 }), call(5, 1, "b", ""), call(6, 2, "c"));
    assert.deepEqual(states(), ["a running", "b running", "c running"]);
    deliver(result(7, 3, "b", "No.", { isError: true }), result(8, 4, "a", "Yes."), closed("MessageUpdated", 9, { status: "waiting" }));
    assert.deepEqual(states(), ["a done", "b failed", "c waiting"]);
    assert.ok(conversation.message(M).isOpen);
    deliver(approval(10, 5, "c", "approved", "fine"));
    assert.equal(conversation.message(M).status, "waiting"); // until the server says otherwise
    assert.deepEqual(states(), ["a done", "b failed", "c approved"]);
    deliver(closed("MessageUpdated", 11, { status: "streaming" }));
    assert.deepEqual(states(), ["a done", "b failed", "c running"]);
    deliver(result(12, 6, "c", "Done."));
    assert.deepEqual(conversation.message(M).calls, [
      { type: "tool_call", id: "a", name: "look", arguments: '{"q": 1}', output: "Yes.", isError: undefined, state: "done" },
      { type: "tool_call", id: "b", name: "look", arguments: "", output: "No.", isError: true, state: "failed" },
      { type: "tool_call", id: "c", name: "look", arguments: "{}", decision: "approved", reason: "fine", output: "Done.", isError: undefined, state: "done" },
    ]);
  });

  test("says which were denied and which were never made", () => {
    open();
    deliver(call(2, 0, "a"), call(3, 1, "b"), closed("MessageUpdated", 4, { status: "waiting" }), approval(5, 2, "a", "denied"));
    assert.deepEqual(states(), ["a denied", "b waiting"]);
    deliver(result(6, 3, "a", "The user denied this call.", { isError: true }), closed("MessageCancelled", 7));
    assert.deepEqual(states(), ["a denied", "b stopped"]);
  });

  test("may use an id again in a later step", () => {
    open();
    deliver(call(2, 0, "a"), result(3, 1, "a", "1"), call(4, 2, "a"), result(5, 3, "a", "2"));
    assert.deepEqual(conversation.message(M).calls.map(({ output }) => output), ["1", "2"]);
  });

  test("keeps results, sources, files and blocks that are not for readers as parts", () => {
    open();
    deliver(
      result(2, 0, "a", "1", { isError: true }),
      update(3, 2, "as quoted", { kind: "source", part: 1, data: { url: "https://example.org/", title: "There" } }),
      update(4, 3, "", { kind: "file", part: 2, data: { attachment: "f", name: "a.png", mimeType: "image/png", size: 7 } }),
      update(5, 4, "", { kind: "raw", part: 3 }),
      closed("MessageCompleted", 6, { structured: { sum: 3 } }),
    );
    assert.deepEqual(conversation.message(M).parts, [
      { type: "tool_result", output: "1", id: "a", name: "look", isError: true },
      { type: "source", text: "as quoted", url: "https://example.org/", title: "There" },
      { type: "file", text: "", attachment: "f", name: "a.png", mimeType: "image/png", size: 7 },
      { type: "raw", text: "" },
    ]);
    assert.deepEqual(conversation.message(M).structured, { sum: 3 });
    assert.equal(text(), "");
  });
});

describe("branches", () => {
  const said = (offset, follows, fields = {}) => created(offset, { messageId: `m${offset}`, role: "user", status: "completed", content: `${offset}`, follows, ...fields });
  const shown = () => conversation.messages.map(({ id }) => id).join(" ");
  const versions = (id) => conversation.versions(conversation.message(id)).map(({ id }) => id).join(" ");
  let turns;

  /** Two turns, of which the second was said in two versions. */
  function fork() {
    converse.connect();
    net.socket.accept();
    turns = [];
    conversation.listen("branch", () => turns.push(shown()));
    subscribed(snapshot(5, [said(1, 0), said(2, 1, { role: "assistant" }), said(3, 2), said(4, 3, { role: "assistant" }), said(5, 2)]));
  }

  test("are shown one at a time, and all of it is kept", () => {
    fork();
    assert.equal(shown(), "m1 m2 m5");
    assert.equal(conversation.message("m4").text, "4");
    assert.deepEqual([versions("m5"), versions("m3"), versions("m2"), versions("m4")], ["m3 m5", "m3 m5", "m2", "m4"]);
  });

  test("are turned to", () => {
    fork();
    net.socket.deliver(turned(6, 4));
    assert.equal(shown(), "m1 m2 m3 m4");
    net.socket.deliver(said(7, 4)); // at the end: the branch is the same
    net.socket.deliver(said(8, 3, { role: "assistant" }));
    assert.equal(shown(), "m1 m2 m3 m8");
    net.socket.deliver(turned(9, 0));
    assert.deepEqual(turns, ["m1 m2 m3 m4", "m1 m2 m3 m8", ""]);
  });

  test("go on over what was deleted", () => {
    fork();
    net.socket.deliver({ event: "MessageDeleted", data: { conversationId: C, messageId: "m2", offset: 6, place: 2, follows: 1 } });
    assert.equal(shown(), "m1 m5");
    net.socket.deliver({ event: "MessageDeleted", data: { conversationId: C, messageId: "m5", offset: 7, place: 5, follows: 2 } });
    net.socket.deliver(said(8, 5));
    assert.equal(shown(), "m1 m8");
    assert.deepEqual(turns, []);
    net.socket.deliver(snapshot(9, [said(1, 0), said(8, 5)], { gone: [{ place: 2, follows: 1 }, { place: 5, follows: 2 }] }));
    assert.equal(shown(), "m1 m8");
  });

  test("begin where the snapshot does", () => {
    converse.connect();
    net.socket.accept();
    subscribed(snapshot(9, [said(7, 5), said(8, 7)], { truncated: true }));
    assert.equal(shown(), "m7 m8");
  });

  test("that are not known are asked for", () => {
    converse.connect();
    net.socket.accept();
    subscribed(snapshot(9, [said(7, 5), said(8, 7)], { truncated: true }));
    net.socket.deliver(turned(10, 3));
    assert.equal(shown(), "m7 m8");
    assert.ok(!("after" in net.socket.sentOf("subscribe").at(-1)));
    subscribed(snapshot(10, [said(1, 0), said(3, 1), said(8, 7)], { leaf: 3 }));
    assert.equal(shown(), "m1 m3");
  });

  test("that are yet to come are waited for", () => {
    fork();
    net.socket.deliver(replay(6, [turned(6, 8)])); // as read when there was more already
    assert.equal(shown(), "m1 m2 m5");
    assert.equal(net.socket.sentOf("subscribe").length, 1);
    net.socket.deliver(replay(8, [said(7, 2), said(8, 7, { role: "assistant" })]));
    assert.equal(shown(), "m1 m2 m7 m8");
    assert.deepEqual(turns, ["m1 m2 m7"]);
  });
});

describe("a gap", () => {
  test("is read again from the cursor", () => {
    open();
    net.socket.deliver(update(2, 1, "a"));
    net.socket.deliver(update(5, 4, "d"));
    assert.deepEqual(net.socket.sentOf("subscribe").at(-1), { type: "subscribe", conversation: C, after: 2, epoch: "e1", id: 2 });
    net.socket.deliver(update(6, 5, "e")); // still from before
    assert.equal(net.socket.sentOf("subscribe").length, 2);
    subscribed(replay(6, [update(6, 5, "bcde")]), update(7, 6, "f"));
    assert.equal(text(), "abcdef");
  });

  test("that stays is left behind with a snapshot", () => {
    open();
    net.socket.deliver(update(3, 2, "b"));
    subscribed(update(3, 2, "b"));
    assert.ok(!("after" in net.socket.sentOf("subscribe").at(-1)));
    subscribed(snapshot(3, [created(1, { content: "ab", sequence: 2 })]));
    assert.equal(text(), "ab");
  });
});

describe("a replay", () => {
  test("is applied as a whole: cursor and text move together, listeners see every event in order", () => {
    open();
    net.socket.deliver(update(2, 1, "a"));
    const seen = [];
    conversation.listen("StreamUpdate", ({ chunk }) => seen.push([chunk, text(), conversation.offset]));
    net.socket.deliver(replay(9, [update(2, 1, "a"), update(5, 4, "bcd"), update(7, 6, "ef"), closed("MessageCompleted", 8)]));
    assert.deepEqual(seen, [["bcd", "abcd", 2], ["ef", "abcdef", 2]]);
    assert.equal(conversation.offset, 9);
    assert.equal(conversation.message(M).status, "completed");
  });

  test("from before the cursor changes nothing", () => {
    open();
    net.socket.deliver(update(2, 1, "a"));
    net.socket.deliver(replay(1, [created(1)]));
    assert.deepEqual([conversation.offset, text()], [2, "a"]);
  });
});

test("a snapshot replaces everything, even with a smaller offset", () => {
  open();
  net.socket.deliver(update(2, 1, "a"));
  net.socket.deliver({ event: "Snapshot", data: { ...snapshot(1, []).data, epoch: "e2", truncated: true } });
  assert.deepEqual(conversation.messages, []);
  assert.deepEqual([conversation.offset, conversation.epoch, conversation.truncated], [1, "e2", true]);
});

describe("the connection", () => {
  test("comes back after a growing while, with its cursor", () => {
    open();
    net.socket.deliver(update(2, 1, "a"));
    const waits = [];
    for (let i = 0; i < 8; i++) {
      net.socket.fail();
      assert.equal(converse.state, "waiting");
      waits.push(clock.next);
      clock.advance(clock.next);
    }
    assert.deepEqual(waits, [375, 625, 1125, 2125, 4125, 4125, 4125, 4125]);
    net.socket.accept();
    assert.deepEqual(net.socket.sent, [{ type: "subscribe", conversation: C, after: 2, epoch: "e1", id: 2 }]);
    subscribed(replay(3, [update(3, 2, "b")]));
    assert.equal(text(), "ab");
    net.socket.fail();
    assert.equal(clock.next, 375); // it was well, so we begin anew
  });

  test("waits between a quarter of a second and eight", () => {
    for (const [random, least, most] of [[() => 0, 250, 250], [() => 0.999999, 499, 8000]]) {
      const far = network();
      const time = new Clock();
      new Converse({ url: "ws://test/", WebSocket: far.WebSocket, clock: time, random }).connect();
      const waits = [];
      for (let i = 0; i < 10; i++, time.advance(time.next)) waits.push((far.socket.fail(), time.next));
      assert.ok(Math.min(...waits) >= least && Math.max(...waits) <= most, String(waits));
    }
  });

  test("waits longer when the server asks for it", () => {
    open();
    net.socket.fail(4429);
    assert.ok(clock.next >= 4000);
  });

  test("does not wait for a socket that never opens", () => {
    converse.connect();
    clock.advance(8_000);
    assert.equal(net.socket.closedWith, 1000);
    assert.equal(converse.state, "waiting");
    net.sockets[0].accept(); // too late
    assert.equal(converse.state, "waiting");
  });

  test("is asked whether it lives when it is quiet, and left when it does not answer", () => {
    open();
    clock.advance(21_000);
    assert.equal(net.socket.sentOf("ping").length, 1);
    net.socket.deliver({ type: "pong" });
    clock.advance(20_000);
    assert.equal(net.socket.sentOf("ping").length, 2);
    assert.equal(converse.state, "open");
    clock.advance(8_000);
    assert.equal(converse.state, "waiting");
    assert.equal(net.sockets[0].closedWith, 1000);
  });

  test("is not asked while events come", () => {
    open();
    for (let i = 2; i < 60; i++) {
      clock.advance(1_000);
      net.socket.deliver(update(i, i - 1, "."));
    }
    assert.equal(net.socket.sentOf("ping").length, 0);
  });

  test("is opened once, however often it is asked for", () => {
    converse.connect();
    converse.connect();
    net.socket.fail();
    converse.connect();
    assert.equal(net.sockets.length, 1);
  });

  for (const code of [4401, 4403]) {
    test(`ends with ${code}`, async () => {
      open();
      const refusals = [];
      converse.listen("refused", (data) => refusals.push(data));
      const answer = conversation.send("hello");
      net.socket.fail(code, "Sign in first.");
      assert.deepEqual(refusals, [{ code, reason: "Sign in first." }]);
      assert.equal(converse.state, "refused");
      await assert.rejects(answer, { code: "refused" });
      await assert.rejects(conversation.send("again"), { code: "refused" });
      assert.equal(clock.next, null);
      converse.connect();
      net.socket.accept();
      assert.equal(net.socket.sent.length, 1); // signed in again, and back in the conversation
    });
  }

  test("ends with close() and can be opened again, with its cursor", async () => {
    open();
    const answer = conversation.send("hello");
    converse.close();
    await assert.rejects(answer, { code: "closed" });
    assert.equal(net.socket.closedWith, 1000);
    assert.equal(converse.state, "closed");
    assert.equal(clock.next, null);
    converse.connect();
    net.socket.accept();
    assert.deepEqual(net.socket.sent.map(({ type, after }) => [type, after]), [["subscribe", 1]]);
  });

  test("tells its state", () => {
    const states = [];
    converse.listen("state", (state) => states.push(state));
    open();
    net.socket.fail();
    reconnect();
    converse.close();
    assert.deepEqual(states, ["connecting", "open", "waiting", "connecting", "open", "closed"]);
  });

  test("takes no words from a socket it has left", () => {
    open();
    clock.advance(28_001);
    net.sockets[0].deliver(update(2, 1, "ghost"));
    net.sockets[0].fail(4401);
    assert.equal(text(), "");
    assert.equal(converse.state, "waiting");
  });
});

describe("the page", () => {
  let listeners;

  beforeEach(() => {
    listeners = {};
    globalThis.addEventListener = (name, listener) => (listeners[name] = listener);
    globalThis.removeEventListener = (name) => delete listeners[name];
    globalThis.document = { ...globalThis, visibilityState: "visible", addEventListener, removeEventListener };
  });

  afterEach(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
    delete globalThis.document;
  });

  for (const name of ["online", "visibilitychange"]) {
    test(`connects at once on ${name}`, () => {
      open();
      net.socket.fail();
      listeners[name]();
      assert.equal(net.sockets.length, 2);
      assert.equal(converse.state, "connecting");
    });
  }

  test("asks an open connection whether it lives when it is looked at again", () => {
    open();
    listeners.visibilitychange();
    assert.equal(net.socket.sentOf("ping").length, 1);
    clock.advance(8_000);
    assert.equal(converse.state, "waiting");
  });

  test("does not knock each time a network comes and goes", () => {
    open();
    for (let i = 0; i < 20; i++) {
      net.socket.fail();
      listeners.online();
      clock.advance(10);
    }
    assert.equal(net.sockets.length, 2);
    clock.advance(clock.next); // but comes back, as always
    assert.equal(net.sockets.length, 3);
  });

  test("gives a server the time that it asked for", () => {
    open();
    net.socket.fail(1013);
    listeners.online();
    listeners.visibilitychange();
    assert.equal(converse.state, "waiting");
    assert.ok(clock.next >= 4000);
  });

  test("asks at once whether anybody is there when the network went", () => {
    open();
    listeners.offline();
    listeners.offline();
    assert.equal(net.socket.sentOf("ping").length, 1);
    clock.advance(8_000);
    assert.equal(converse.state, "waiting");
    listeners.offline(); // nobody to ask
    assert.equal(net.sockets.length, 1);
  });

  test("does nothing when it is hidden", () => {
    open();
    globalThis.document.visibilityState = "hidden";
    net.socket.fail();
    listeners.visibilitychange();
    assert.equal(converse.state, "waiting");
  });

  test("is left alone after the end", () => {
    open();
    converse.close();
    assert.deepEqual(listeners, {});
  });
});

describe("acknowledgements", () => {
  test("come a second after the last one", () => {
    open();
    clock.advance(1_000);
    assert.deepEqual(net.socket.sentOf("ack"), [{ type: "ack", conversation: C, offset: 1 }]);
    net.socket.deliver(update(2, 1, "a"));
    net.socket.deliver(update(3, 2, "b"));
    clock.advance(999);
    assert.equal(net.socket.sentOf("ack").length, 1);
    clock.advance(1);
    assert.deepEqual(net.socket.sentOf("ack").at(-1), { type: "ack", conversation: C, offset: 3 });
    clock.advance(18_000);
    assert.equal(net.socket.sentOf("ack").length, 2);
  });

  test("come with each 32 kB", () => {
    open();
    for (let i = 2; i <= 41; i++) net.socket.deliver(update(i, i - 1, "x".repeat(4_000)));
    const acks = net.socket.sentOf("ack").map(({ offset }) => offset);
    assert.deepEqual(acks, [9, 17, 25, 33, 41]);
  });

  test("need no timer, which a hidden page may not have", () => {
    open();
    clock.now = () => 5_000;
    net.socket.deliver(update(2, 1, "a"));
    assert.deepEqual(net.socket.sentOf("ack").at(-1), { type: "ack", conversation: C, offset: 2 });
  });
});

describe("a command", () => {
  test("is answered", async () => {
    open();
    const answer = conversation.send("Hello", { clientId: "k1", policy: "queue" });
    const [frame] = net.socket.sentOf("send");
    assert.deepEqual({ ...frame, id: 0 }, { type: "send", conversation: C, content: "Hello", clientId: "k1", policy: "queue", id: 0 });
    net.socket.deliver({ type: "sent", id: frame.id, conversation: C, message: "u", reply: "r" });
    const { message, reply } = await answer;
    assert.deepEqual([message, reply], ["u", "r"]);
  });

  test("is refused with a code, a reason and a field", async () => {
    open();
    const answer = conversation.send("");
    const [frame] = net.socket.sentOf("send");
    net.socket.deliver({ type: "error", id: frame.id, code: "invalid", reason: "Say something.", field: "content" });
    await assert.rejects(answer, (error) => {
      assert.ok(error instanceof ConverseError);
      assert.deepEqual([error.code, error.reason, error.field, error.message], ["invalid", "Say something.", "content", "Say something."]);
      return true;
    });
  });

  test("of its own makes an id of its own", () => {
    open();
    conversation.send("a");
    conversation.send("b");
    const [a, b] = net.socket.sentOf("send").map(({ clientId }) => clientId);
    assert.match(a, /^[0-9a-f]{32}$/);
    assert.notEqual(a, b);
  });

  test("is sent again, the same, until it is answered", async () => {
    const answer = conversation.send("before there was a connection");
    converse.connect();
    net.socket.accept();
    net.socket.fail();
    reconnect();
    net.socket.fail();
    reconnect();
    const frames = net.sockets.map((socket) => socket.sentOf("send"));
    assert.deepEqual(frames.map((sent) => sent.length), [1, 1, 1]);
    assert.deepEqual(frames[0], frames[2]);
    net.socket.deliver({ type: "sent", id: frames[2][0].id, conversation: C, message: "u", reply: "r" });
    assert.equal((await answer).reply, "r");
    net.socket.fail();
    reconnect();
    assert.equal(net.socket.sentOf("send").length, 0);
  });

  test("given from a state listener is sent once", () => {
    converse.listen("state", (state) => state === "open" && (conversation.send("hi"), converse.subscribe(OTHER)));
    converse.connect();
    net.socket.accept();
    assert.deepEqual(net.socket.sent.map(({ type, conversation }) => [type, conversation]), [["subscribe", C], ["send", C], ["subscribe", OTHER]]);
  });

  test("too long for the server is given up, the others are not", async () => {
    open();
    const short = conversation.send("short");
    const long = conversation.send("long".repeat(200_000));
    net.socket.fail(4413);
    await assert.rejects(long, { code: "too_large" });
    reconnect();
    const [frame, ...rest] = net.socket.sentOf("send");
    assert.equal(frame.content, "short");
    assert.deepEqual(rest, []);
    net.socket.deliver({ type: "sent", id: frame.id, conversation: C, message: "u", reply: "r" });
    await short;
    net.socket.fail(1009); // with nothing asked
    assert.equal(converse.state, "waiting");
  });

  test("stops a reply", async () => {
    open();
    const answer = conversation.stop(M);
    const [frame] = net.socket.sentOf("stop");
    assert.equal(frame.message, M);
    net.socket.deliver({ type: "stopped", id: frame.id, message: M, status: "cancelled" });
    assert.equal((await answer).status, "cancelled");
  });

  test("is about a message", async () => {
    open();
    const clientId = "k1";
    const answers = [
      conversation.approve(M, "c1"),
      conversation.deny(M, "c2", "too dear"),
      conversation.retry(M, { clientId }),
      conversation.edit(M, "Better", { clientId }),
      conversation.switch(M),
      conversation.send("See", { clientId, attachments: ["f"] }),
    ];
    const sent = net.socket.sent.slice(1).map(({ id, ...frame }) => frame);
    assert.deepEqual(sent, [
      { type: "approve", message: M, call: "c1", reason: "" },
      { type: "deny", message: M, call: "c2", reason: "too dear" },
      { type: "retry", message: M, clientId },
      { type: "edit", message: M, content: "Better", clientId },
      { type: "switch", message: M },
      { type: "send", conversation: C, content: "See", clientId, attachments: ["f"] },
    ]);
    for (const { id } of net.socket.sent.slice(1)) net.socket.deliver({ type: "done", id });
    assert.equal((await Promise.all(answers)).length, 6);
  });

  test("has all that was asked for with it", () => {
    open();
    const options = { clientId: "k1", provider: "fast", policy: "queue" };
    conversation.edit(M, "Better", { ...options, attachments: ["f"] });
    conversation.retry(M, options);
    assert.deepEqual(
      net.socket.sent.slice(1).map(({ id, ...frame }) => frame),
      [
        { type: "edit", message: M, content: "Better", ...options, attachments: ["f"] },
        { type: "retry", message: M, ...options },
      ],
    );
  });

  test("that is not harmless twice has an id of its own", () => {
    open();
    conversation.retry(M);
    conversation.edit(M, "Better");
    for (const type of ["retry", "edit"]) assert.match(net.socket.sentOf(type)[0].clientId, /^[0-9a-f]{32}$/);
  });
});

describe("a subscription", () => {
  test("begins where it is told to", () => {
    converse.subscribe(OTHER, { after: 17, epoch: "e7", presence: true });
    converse.connect();
    net.socket.accept();
    assert.deepEqual(net.socket.sent, [
      { type: "subscribe", conversation: C, id: 1 },
      { type: "subscribe", conversation: OTHER, presence: true, after: 17, epoch: "e7", id: 2 },
    ]);
  });

  test("is the same for all who ask", () => {
    assert.equal(converse.subscribe(C), conversation);
  });

  test("can be refused", () => {
    converse.connect();
    net.socket.accept();
    net.socket.deliver({ type: "error", id: 1, code: "not_found", reason: "There is no such conversation." });
    assert.equal(events.length, 1);
    assert.deepEqual([events[0][0], events[0][1].code], ["refused", "not_found"]);
    net.socket.fail();
    reconnect();
    assert.deepEqual(net.socket.sent, []);
  });

  test("is asked for again when the server failed", () => {
    converse.connect();
    net.socket.accept();
    net.socket.deliver({ type: "error", id: 1, code: "server_error", reason: "A failure." });
    clock.advance(8_000);
    assert.equal(net.socket.sentOf("subscribe").length, 2);
    subscribed(snapshot(1, [created(1, { content: "there" })]));
    assert.equal(text(), "there");
  });

  test("can be withdrawn", () => {
    open();
    net.socket.deliver({ type: "unsubscribed", conversation: C, code: "not_found", reason: "No longer yours." });
    assert.deepEqual([events.at(-1)[0], events.at(-1)[1].reason], ["unsubscribed", "No longer yours."]);
    net.socket.deliver(update(2, 1, "secret"));
    assert.equal(text(), "");
    net.socket.fail();
    reconnect();
    assert.deepEqual(net.socket.sent, []);
  });

  test("can be left", () => {
    open();
    conversation.leave();
    assert.deepEqual(net.socket.sent.at(-1), { type: "unsubscribe", conversation: C });
    net.socket.deliver({ type: "unsubscribed", conversation: C });
    net.socket.deliver(update(2, 1, "late"));
    assert.equal(text(), "");
    const again = converse.subscribe(C);
    assert.notEqual(again, conversation);
    conversation.forget();
    assert.equal(converse.subscribe(C), again);
  });
});

describe("typing", () => {
  test("is told at most every two seconds", () => {
    open();
    for (let i = 0; i < 41; i++, clock.advance(100)) conversation.typing();
    assert.equal(net.socket.sentOf("typing").length, 3);
  });

  test("of others is heard, with no offset to follow", () => {
    open();
    net.socket.deliver({ event: "Typing", data: { conversationId: C, user: { id: "u1", name: "Ann" } } });
    assert.deepEqual(events.at(-1), ["Typing", { conversationId: C, user: { id: "u1", name: "Ann" } }]);
    assert.equal(conversation.offset, 1);
  });
});

test("listen() gives the way to stop listening", () => {
  open();
  const heard = [];
  const stop = conversation.listen("StreamUpdate", ({ chunk }) => heard.push(chunk));
  net.socket.deliver(update(2, 1, "a"));
  stop();
  net.socket.deliver(update(3, 2, "b"));
  assert.deepEqual(heard, ["a"]);
});

test("the address is the page's own, with the right protocol", () => {
  globalThis.location = { href: "https://example.org/chat/?x=1" };
  assert.equal(new Converse({ WebSocket: net.WebSocket }).url, "wss://example.org/converse/ws/");
  assert.equal(new Converse({ url: "/elsewhere/", WebSocket: net.WebSocket }).url, "wss://example.org/elsewhere/");
  delete globalThis.location;
});
