import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { network } from "./world.mjs";

const C = "11111111-1111-1111-1111-111111111111";
const OTHER = "22222222-2222-2222-2222-222222222222";
const later = () => new Promise((resolve) => setTimeout(resolve, 1));
const url = "ws://test/converse/ws/";

let net, share;

beforeEach(async () => {
  net = network();
  globalThis.WebSocket = net.WebSocket;
  ({ share } = await import("../../converse/static/converse/shared.js"));
});

test("one socket and one subscription serve all, until the last lets go", async () => {
  const [one, two, other] = [share(C, { url }), share(C, { url }), share(OTHER, { url })];
  assert.equal(net.sockets.length, 1);
  assert.equal(one.conversation, two.conversation);
  net.socket.accept();
  assert.equal(net.socket.sentOf("subscribe").length, 2);
  one.release();
  one.release(); // twice is once
  await later();
  assert.equal(net.socket.sentOf("unsubscribe").length, 0);
  two.release();
  await later();
  assert.deepEqual(net.socket.sentOf("unsubscribe").map(({ conversation }) => conversation), [C]);
  other.release();
  await later();
  assert.equal(net.socket.closedWith, 1000);
});

test("who lets go and comes back at once loses nothing", async () => {
  const first = share(C, { url });
  net.socket.accept();
  first.release();
  const second = share(C, { url });
  await later();
  assert.equal(second.conversation, first.conversation);
  assert.equal(net.socket.sentOf("subscribe").length, 1);
  assert.equal(net.socket.sentOf("unsubscribe").length, 0);
  second.release();
  await later();
});

test("a subscription that ended is begun anew by the next, and not left by the former", async () => {
  const first = share(C, { url });
  net.socket.accept();
  net.socket.deliver({ type: "unsubscribed", conversation: C, code: "not_found", reason: "" });
  const second = share(C, { url });
  assert.notEqual(second.conversation, first.conversation);
  first.release();
  await later();
  assert.equal(net.socket.sentOf("unsubscribe").length, 0);
  assert.equal(net.socket.closedWith, null);
  second.release();
  await later();
  assert.equal(net.socket.closedWith, 1000);
});
