import assert from "node:assert/strict";
import { test } from "node:test";
import * as ai7 from "ai";
import * as ai5 from "ai5";
import * as ai6 from "ai6";
import { act, browser, lines, origin, page, person, proxy, steps, until } from "../site.mjs";

const VERSIONS = { 5: ai5, 6: ai6, 7: ai7 };
const API = "/converse/chat";

/** What `useChat` keeps, without React. */
class State {
  status = "ready";
  error = undefined;
  constructor(messages = []) {
    this.messages = messages;
  }
  pushMessage = (message) => (this.messages = [...this.messages, message]);
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (index, message) => (this.messages = this.messages.with(index, structuredClone(message)));
  snapshot = (value) => structuredClone(value);
}

function chatOf(sdk, ada, id, { messages, from = origin, ...options } = {}) {
  const { AbstractChat, DefaultChatTransport } = VERSIONS[sdk];
  const headers = { ...ada.headers, "X-Converse-SDK": String(sdk) };
  const transport = new DefaultChatTransport({ api: from + API, headers });
  class Chat extends AbstractChat {}
  return new Chat({ id, transport, state: new State(messages), ...options });
}

const textOf = (message) => (message?.parts ?? []).reduce((text, part) => (part.type === "text" ? text + part.text : text), "");
const last = (chat) => chat.messages.at(-1);
const message = (id) => act("message", { message: id });
const initial = async (ada, id, sdk) =>
  (await ada.fetch(`${API}/${id}/messages`, { headers: { "X-Converse-SDK": String(sdk) } })).json();

for (const sdk of [5, 6, 7]) {
  const named = (what, body) => test(`AI SDK ${sdk}: ${what}`, body);

  named("what is sent is answered and stored", async () => {
    const ada = await person();
    const chat = chatOf(sdk, ada, await ada.conversation());
    await chat.sendMessage({ text: "Good morning to you" });
    assert.equal(chat.error, undefined);
    assert.equal(chat.status, "ready");
    const told = await message(last(chat).id);
    assert.equal(textOf(last(chat)), told.text);
    assert.equal(told.text, "Good morning to you");
    assert.equal(last(chat).metadata.status, "completed");
    await chat.sendMessage({ text: "And again" });
    assert.deepEqual(chat.messages.map(textOf), ["Good morning to you", "Good morning to you", "And again", "And again"]);
  });

  named("a message is edited, twice, and its reply made again", async () => {
    const ada = await person();
    const conversation = await ada.conversation();
    const chat = chatOf(sdk, ada, conversation);
    await chat.sendMessage({ text: "One" });
    const [{ id }] = chat.messages;
    for (const text of ["Two", "Three"]) {
      await chat.sendMessage({ text, messageId: id });
      assert.deepEqual(chat.messages.map(textOf), [text, text]);
    }
    const before = last(chat).id;
    await chat.regenerate();
    assert.equal(chat.error, undefined);
    assert.deepEqual(chat.messages.map(textOf), ["Three", "Three"]);
    assert.notEqual(last(chat).id, before);
    await chat.regenerate({ messageId: last(chat).id });
    const { messages } = await initial(ada, conversation, sdk);
    assert.deepEqual(messages.map(textOf), ["Three", "Three"]);
    assert.equal(messages[1].id, last(chat).id);
  });

  named("reasoning, tools and steps are shown", async () => {
    const ada = await person();
    const conversation = await ada.conversation();
    const chat = chatOf(sdk, ada, conversation);
    const script = steps(
      [["think", "Hm."], ["say", "Let me see."], ["call", ["say", { text: "x" }]]],
      [["source", "https://example.com/"], ["say", "Done."]],
    );
    await chat.sendMessage({ text: script });
    assert.equal(chat.error, undefined);
    const types = last(chat).parts.map(({ type }) => type);
    const expected = ["step-start", "reasoning", "text", "tool-say", "step-start", "source-url", "text"];
    assert.deepEqual(types, expected);
    assert.deepEqual(last(chat).parts[3].input, { text: "x" });
    assert.equal(last(chat).parts[3].output, "x");
    const { messages } = await initial(ada, conversation, sdk);
    assert.deepEqual(
      messages[1].parts.map(({ type, text, state, output }) => ({ type, text, state, output })),
      last(chat).parts.map(({ type, text, state, output }) => ({ type, text, state, output })),
    );
  });

  named("a call that has to be approved is run once it is", async () => {
    const ada = await person();
    const automatic = VERSIONS[sdk].lastAssistantMessageIsCompleteWithApprovalResponses;
    const chat = chatOf(sdk, ada, await ada.conversation(), { sendAutomaticallyWhen: automatic });
    await chat.sendMessage({ text: steps([["call", ["pay", { amount: 5 }]]], [["say", "Paid."]]) });
    assert.equal(last(chat).metadata.status, "waiting");
    const { id } = last(chat);
    if (sdk === 5) {
      const { data } = last(chat).parts.find(({ type }) => type === "data-approval");
      await chat.sendMessage(undefined, { body: { approvals: [{ toolCallId: data.toolCallId, approved: true }] } });
    } else {
      const { approval } = last(chat).parts.find(({ state }) => state === "approval-requested");
      await chat.addToolApprovalResponse({ id: approval.id, approved: true });
    }
    await until(() => last(chat).metadata.status === "completed" && chat.status === "ready", "the end");
    assert.equal(chat.error, undefined);
    assert.equal(last(chat).id, id);
    assert.equal(chat.messages.length, 2);
    const paid = last(chat).parts.filter(({ type }) => type === "tool-pay");
    assert.deepEqual(paid.map(({ state, output }) => [state, output]), [["output-available", "paid 5"]]);
    assert.equal(textOf(last(chat)), "Paid. ");
  });

  named("a page that is loaded again in the middle has all of the reply, once", async () => {
    const ada = await person();
    const conversation = await ada.conversation();
    const way = await proxy();
    const first = chatOf(sdk, ada, conversation, { from: way.origin });
    const sending = first.sendMessage({ text: lines(80, 0.02) });
    await until(() => textOf(last(first)).split("\n").length > 10, "some lines");
    way.cut();
    await sending;
    assert.equal((await message(last(first).id)).status, "streaming");
    const { messages, resume } = await initial(ada, conversation, sdk);
    assert.equal(resume, true);
    assert.equal(messages.length, 1);
    const chats = [0, 1].map(() => chatOf(sdk, ada, conversation, { messages: structuredClone(messages) }));
    await Promise.all(chats.map((chat) => chat.resumeStream()));
    for (const chat of chats) {
      assert.equal(chat.messages.length, 2);
      const told = await message(last(chat).id);
      assert.equal(told.status, "completed");
      assert.equal(textOf(last(chat)), told.text);
    }
    way.close();
  });

  named("a reply that ended while the page was loading is there", async () => {
    const ada = await person();
    const conversation = await ada.conversation();
    const { reply } = await act("reply", { conversation, content: lines(10, 0.03) });
    const { messages, resume } = await initial(ada, conversation, sdk);
    assert.equal(resume, true);
    const told = await until(async () => {
      const found = await message(reply);
      return found.status === "completed" && found;
    });
    const chat = chatOf(sdk, ada, conversation, { messages });
    await chat.resumeStream();
    assert.equal(chat.error, undefined);
    assert.equal(textOf(last(chat)), told.text);
    assert.equal(chat.messages.length, 2);
  });

  named("there is nothing to resume", async () => {
    const ada = await person();
    const chat = chatOf(sdk, ada, await ada.conversation());
    await chat.resumeStream();
    assert.equal(chat.status, "ready");
    assert.equal(chat.error, undefined);
  });

  named("a stop stops the reply and keeps its text", async () => {
    const ada = await person();
    const conversation = await ada.conversation();
    const chat = chatOf(sdk, ada, conversation);
    const sending = chat.sendMessage({ text: lines(500, 0.02) });
    await until(() => textOf(last(chat)).split("\n").length > 5, "some lines");
    const answer = await ada.fetch(`${API}/${conversation}/stop`, { method: "POST" });
    const { success, messages } = await answer.json();
    await sending;
    assert.equal(success, true);
    const told = await message(last(chat).id);
    assert.equal(told.status, "cancelled");
    assert.equal(last(chat).metadata.status, "cancelled");
    assert.equal(textOf(last(chat)), told.text);
    assert.equal(textOf(messages[0]), told.text);
  });

  named("what goes wrong is told in words", async () => {
    const [ada, eve] = [await person(), await person()];
    const conversation = await ada.conversation();
    const foreign = chatOf(sdk, eve, conversation);
    await foreign.sendMessage({ text: "Hi" });
    assert.match(foreign.error.message, /^There is no such conversation/);
    assert.equal(foreign.status, "error");
    const failing = chatOf(sdk, ada, conversation);
    await failing.sendMessage({ text: steps([["say", "So far"], ["pause", "x"]]) });
    assert.equal(failing.error.message, "The reply failed. Please try again.");
    assert.equal(textOf(last(failing)), "So far ");
  });
}

test("useChat in the browser: send, load again in the middle, approve, stop", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const path = await page("usechat.jsx");
  const chromium = await browser();
  const context = await chromium.newContext();
  await context.addCookies(ada.cookies());
  const tab = await context.newPage();
  const errors = [];
  tab.on("pageerror", (error) => errors.push(error));
  await tab.goto(`${origin}${path}?id=${conversation}`);
  const say = async (words) => {
    await tab.fill("textarea", words);
    await tab.click("text=Send");
  };
  const replies = () => tab.locator('[data-role="assistant"] p').allTextContents();
  await tab.waitForSelector("textarea");

  await say(lines(120, 0.02));
  await tab.waitForFunction(() => document.querySelector('[data-role="assistant"] p')?.textContent.length > 300);
  await tab.reload();
  await tab.waitForFunction(() => document.querySelector("main")?.dataset.status === "streaming");
  await tab.waitForFunction(() => document.querySelector("main")?.dataset.status === "ready");
  const { messages } = await initial(ada, conversation, 7);
  assert.deepEqual(await replies(), [textOf(messages[1])]);
  assert.equal(textOf(messages[1]).split("\n").length, 121);

  await say(steps([["call", ["pay", { amount: 7 }]]], [["say", "<b>Paid.</b>"]]));
  await tab.click("text=Approve");
  await tab.waitForFunction(() => document.body.textContent.includes("paid 7"));
  await tab.waitForFunction(() => document.body.textContent.includes("<b>Paid.</b>"));

  await say(lines(1000, 0.02));
  await tab.waitForFunction(() => [...document.querySelectorAll('[data-role="assistant"] p')].length === 3);
  await tab.click("text=Stop");
  await tab.waitForFunction(() => document.querySelector("main")?.dataset.status === "ready");
  const stopped = await until(async () => {
    const found = (await initial(ada, conversation, 7)).messages.at(-1);
    return found.metadata.status === "cancelled" && found;
  });
  assert.ok(textOf(stopped).length > 0);
  assert.deepEqual(errors, []);
  await chromium.close();
});
