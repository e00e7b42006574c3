/** One conversation, followed at once by every client, each with breaks of its own: all end with what is stored. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { EventSource } from "eventsource";
import Echo from "laravel-echo";
import Pusher from "pusher-js";
import { Reader } from "../pages/reader.mjs";
import { act, browser, jar, lines, page, person, proxy, until } from "../site.mjs";

const LINES = 250;
const BREAKS = 5; // of each client

let chromium;
let pages;
before(async () => {
  chromium = await browser();
  const [useecho, cached, element, usechat, eventsource] = await Promise.all(
    ["useecho.jsx", "cached.mjs", "element.mjs", "usechat.jsx", "eventsource.mjs"].map((entry) => page(entry)),
  );
  pages = { useecho, cached, element, usechat, eventsource };
});
const ends = [];
after(async () => {
  await chromium?.close();
  ends.forEach((end) => end());
});

/** Open a page for a person by a way of its own. */
async function tab(ada, way, path) {
  const context = await chromium.newContext();
  await context.addCookies(ada.cookies(way.origin));
  const opened = await context.newPage();
  await opened.goto(way.origin + path);
  return opened;
}

// Each client: begin to follow; then `text` tells what it has of a reply, `mend` helps where a client needs its page's help.

const CLIENTS = {
  async Echo(ada, way, conversation) {
    const { hostname, port } = new URL(way.origin);
    const last = {};
    const doors = await jar(ada);
    const echo = new Echo({
      broadcaster: "reverb",
      Pusher,
      key: "converse",
      wsHost: hostname,
      wsPort: Number(port),
      forceTLS: false,
      enabledTransports: ["ws"],
      channelAuthorization: {
        endpoint: `${doors.origin}/broadcasting/auth`,
        transport: "ajax",
        paramsProvider: () => ({ resume: JSON.stringify(last) }),
      },
    });
    const { connection } = echo.connector.pusher;
    connection.bind("message", ({ channel, data }) => {
      if (channel && data?.seq != null) last[channel] = data.seq;
    });
    const texts = {};
    const channel = echo.private(`conversation.${conversation}`);
    channel.listen("StreamUpdate", ({ messageId, kind, chunk }) => {
      if (kind === "text") texts[messageId] = (texts[messageId] ?? "") + chunk;
    });
    await new Promise((resolve, reject) => channel.subscribed(resolve).error(reject));
    const mend = () => connection.state !== "connected" && connection.connect();
    return { text: (reply) => texts[reply], mend, close: () => [echo.disconnect(), doors.close()] };
  },

  async useEcho(ada, way, conversation) {
    const opened = await tab(ada, way, `${pages.useecho}?conversation=${conversation}`);
    await opened.evaluate(() => window.ready);
    const mend = () => opened.evaluate(() => window.reset());
    return { text: (reply) => opened.evaluate((id) => window.texts[id], reply), mend };
  },

  async "EventSource in Node"(ada, way, conversation) {
    const fetchAs = (address, options) =>
      fetch(address, { ...options, headers: { ...options.headers, Cookie: ada.cookie } });
    const source = new EventSource(`${way.origin}/converse/conversations/${conversation}/events/`, { fetch: fetchAs });
    const reader = new Reader().follow(source);
    await until(() => reader.snapshots, "a snapshot");
    return { text: (reply) => reader.text(reply), close: () => source.close() };
  },

  async "EventSource in Chromium"(ada, way, conversation) {
    const path = `/converse/conversations/${conversation}/events/`;
    const opened = await tab(ada, way, `${pages.eventsource}?follow=${path}`);
    await opened.waitForFunction(() => window.reader?.snapshots);
    return { text: (reply) => opened.evaluate((id) => window.reader.text(id), reply) };
  },

  async useChat(ada, way, conversation) {
    const address = `${pages.usechat}?id=${conversation}`;
    const opened = await tab(ada, way, address);
    const mend = async () => {
      // useChat does not come back by itself: what people do then is to reload.
      if (await opened.locator("main[data-status=streaming], main[data-status=submitted]").count()) return;
      await opened.goto(way.origin + address).catch(() => {});
    };
    const said = opened.locator("section[data-role=assistant]").last().locator("p");
    return { text: async () => (await said.allTextContents()).join(""), mend };
  },

  async "the element"(ada, way, conversation) {
    const opened = await tab(ada, way, `${pages.element}?conversation=${conversation}`);
    await opened.waitForFunction(() => window.text !== undefined);
    return { text: (reply) => opened.evaluate((id) => window.text(id), reply) };
  },

  async curl(ada, way, conversation) {
    const reader = new Reader();
    let cursor = "";
    let isOpen = true;
    let running;
    const run = () => {
      const resume = cursor ? ["--header", `Last-Event-ID: ${cursor}`] : [];
      const address = `${way.origin}/converse/conversations/${conversation}/events/`;
      running = spawn("curl", ["--silent", "--no-buffer", "--header", `Cookie: ${ada.cookie}`, ...resume, address]);
      let rest = "";
      running.stdout.setEncoding("utf8").on("data", (data) => {
        const blocks = (rest + data).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)));
          if (!fields.event) continue;
          reader.take(fields.event, JSON.parse(fields.data));
          cursor = fields.id ?? cursor;
        }
      });
      running.on("close", () => isOpen && setTimeout(run, 100));
    };
    run();
    await until(() => reader.snapshots, "a snapshot");
    const close = () => {
      isOpen = false;
      running.kill();
    };
    return { text: (reply) => reader.text(reply), close };
  },
};

test("all clients end with what is stored, whatever breaks when", { timeout: 180_000 }, async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const readers = await Promise.all(
    Object.entries(CLIENTS).map(async ([name, follow]) => {
      const way = await proxy();
      ends.push(way.close);
      const reader = await follow(ada, way, conversation);
      ends.push(() => reader.close?.());
      return { name, way, ...reader };
    }),
  );
  const { reply } = await act("reply", { conversation, content: lines(LINES, 0.03) });
  const chat = readers.find(({ name }) => name === "useChat");
  await chat.mend(); // a page shows what was asked elsewhere when it is opened anew

  await Promise.all(
    readers.map(async ({ way, mend }) => {
      for (let count = 0; count < BREAKS; count++) {
        await pause(300 + Math.random() * 1200);
        way.cut();
        await pause(50 + Math.random() * 300);
        await mend?.();
      }
    }),
  );
  const stored = await until(async () => {
    const found = await act("message", { message: reply });
    return found.status === "completed" && found;
  }, "the end", 60);
  assert.equal(stored.text.split("\n").length, LINES + 1);
  for (const { name, text, mend } of readers) {
    const has = async () => {
      const told = await text(reply);
      if (told !== stored.text) await mend?.();
      return told === stored.text;
    };
    await until(has, `${name}: what is stored`, 60);
  }
});

for (const status of ["pending", "streaming", "completed"]) {
  test(`a page that is reloaded while a reply is ${status} shows it whole, and once`, { timeout: 120_000 }, async () => {
    const ada = await person();
    const conversation = await ada.conversation();
    const way = await proxy();
    ends.push(way.close);
    const tabs = await Promise.all([
      tab(ada, way, `${pages.element}?conversation=${conversation}`),
      tab(ada, way, `${pages.usechat}?id=${conversation}`),
      tab(ada, way, `${pages.eventsource}?follow=/converse/conversations/${conversation}/events/`),
      tab(ada, way, `${pages.cached}?conversation=${conversation}`),
    ]);
    const { reply } = await act("reply", { conversation, content: lines(60, 0.02) });
    const known = () => act("message", { message: reply });
    if (status === "streaming") await until(async () => (await known()).text.length > 300, "some text");
    if (status === "completed") await until(async () => (await known()).status === status, "the end");
    await Promise.all(tabs.map((opened) => opened.reload()));
    await until(async () => (await known()).status === "completed", "the end");
    const { text } = await known();
    const [element, chat, source, echo] = tabs;
    await element.waitForFunction(([id, told]) => window.text?.(id) === told, [reply, text]);
    await source.waitForFunction(([id, told]) => window.reader?.text(id) === told, [reply, text]);
    await echo.waitForFunction(([id, told]) => window.texts[id] === told, [reply, text]);
    const said = chat.locator("section[data-role=assistant]");
    await until(async () => (await said.locator("p").allTextContents()).join("") === text, "the text in useChat");
    assert.equal(await said.count(), 1);
  });
}
