import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { EventSource } from "eventsource";
import { Reader } from "../pages/reader.mjs";
import { act, browser, lines, origin, page, person, proxy, until } from "../site.mjs";

const eventsOf = (conversation) => `/converse/conversations/${conversation}/events/`;
const messageEvents = (conversation, message) => `/converse/conversations/${conversation}/messages/${message}/events/`;

/** The EventSource of npm, signed in as a person. */
function open(ada, url) {
  const fetchAs = (address, options) =>
    fetch(address, { ...options, headers: { ...options.headers, Cookie: ada.cookie } });
  return new EventSource(url, { fetch: fetchAs });
}

const settled = (message) =>
  until(async () => {
    const found = await act("message", { message });
    return ["completed", "failed", "cancelled"].includes(found.status) && found;
  });

test("EventSource in Node reads what is stored, through any number of disconnects", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const way = await proxy();
  const source = open(ada, way.origin + eventsOf(conversation));
  const reader = new Reader().follow(source);
  await until(() => reader.snapshots === 1, "a snapshot");
  const { reply } = await act("reply", { conversation, content: lines(150, 0.02) });
  for (let cut = 0; cut < 3; cut++) {
    await until(() => reader.text(reply).length > cut * 300, "text");
    way.cut();
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  const told = await settled(reply);
  await until(() => reader.status(reply) === "completed", "the end");
  source.close();
  way.close();
  assert.equal(reader.text(reply), told.text);
  assert.equal(reader.snapshots, 1);
  assert.ok(reader.names.includes("Replay"));
});

test("a message's stream ends with the message, and nobody comes back for ever", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const { reply } = await act("reply", { conversation, content: lines(20, 0.01) });
  const source = open(ada, origin + messageEvents(conversation, reply));
  const reader = new Reader().follow(source);
  const errors = [];
  source.onerror = ({ code }) => errors.push(code);
  await until(() => source.readyState === EventSource.CLOSED, "the end");
  assert.equal(reader.text(reply), (await settled(reply)).text);
  assert.equal(reader.status(reply), "completed");
  assert.deepEqual(errors, [undefined, 204]);
});

test("who may read no more is told so, and does not come back", async () => {
  const [ada, bob] = [await person(), await person()];
  const conversation = await ada.conversation();
  await act("share", { conversation, user: bob.id });
  const source = open(bob, origin + eventsOf(conversation));
  const reader = new Reader().follow(source);
  await until(() => reader.snapshots === 1, "a snapshot");
  await act("unshare", { conversation, user: bob.id });
  await until(() => source.readyState === EventSource.CLOSED, "the end");
  assert.equal(reader.names.at(-1), "Withdrawn");
});

test("curl -N shows words before the reply has ended", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const { reply } = await act("reply", { conversation, content: lines(40, 0.05) });
  const url = origin + messageEvents(conversation, reply);
  const curl = spawn("curl", ["-sNi", "-H", `Cookie: ${ada.cookie}`, "-H", "Accept-Encoding: gzip", url]);
  let said = "";
  let before = 0; // lines that came while the reply was open
  curl.stdout.setEncoding("utf8").on("data", (text) => (said += text));
  const ended = new Promise((resolve) => curl.on("close", resolve));
  await until(() => said.includes("event: StreamUpdate"), "a word");
  before = said.split("event: StreamUpdate").length - 1;
  const { status } = await act("message", { message: reply });
  assert.equal(await ended, 0);
  const told = await settled(reply);
  assert.ok(before > 0 && status === "streaming");
  assert.match(said, /content-type: text\/event-stream/i);
  assert.match(said, /x-accel-buffering: no/i);
  assert.match(said, /^retry: 2000$/m);
  assert.match(said, /^id: \d+-[0-9a-f]+$/m);
  const reader = new Reader();
  for (const block of said.replaceAll("\r\n", "\n").split("\n\n").slice(1)) {
    const [, name] = block.match(/^event: (.*)$/m) ?? [];
    if (name) reader.take(name, JSON.parse(block.match(/^data: (.*)$/m)[1]));
  }
  assert.equal(reader.text(reply), told.text);
});

test("the browser's EventSource reads what is stored, through disconnects and a reload", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const path = await page("eventsource.mjs");
  const way = await proxy();
  const chromium = await browser();
  const context = await chromium.newContext();
  await context.addCookies(ada.cookies(way.origin));
  const tab = await context.newPage();
  await tab.goto(`${way.origin}${path}?follow=${encodeURIComponent(eventsOf(conversation))}`);
  await tab.waitForFunction(() => window.reader.snapshots === 1);
  const { reply } = await act("reply", { conversation, content: lines(200, 0.02) });
  const length = (least) => tab.waitForFunction(([id, least]) => window.reader.text(id).length > least, [reply, least]);
  await length(100);
  way.cut();
  await length(1500);
  await tab.reload();
  await length(2500);
  way.cut();
  const told = await settled(reply);
  await tab.waitForFunction((id) => window.reader.status(id) === "completed", reply);
  assert.equal(await tab.evaluate((id) => window.reader.text(id), reply), told.text);
  await tab.evaluate((address) => window.read(address), messageEvents(conversation, reply));
  await tab.waitForFunction(() => window.source.readyState === EventSource.CLOSED);
  assert.equal(await tab.evaluate((id) => window.reader.text(id), reply), told.text);
  await chromium.close();
  way.close();
});
