import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import Echo from "laravel-echo";
import PusherServer from "pusher";
import Pusher from "pusher-js";
import { act, browser, lines, origin, page, person, proxy, until } from "../site.mjs";

const ends = [];
after(() => ends.forEach((end) => end()));

/** What adds a person's cookie to requests, as a browser does; pusher-js in Node will not. Give its origin. */
async function jar(someone) {
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray());
    const headers = { "Content-Type": request.headers["content-type"] };
    const answer = await someone.fetch(request.url, { method: "POST", headers, body });
    response.writeHead(answer.status, { "Content-Type": answer.headers.get("Content-Type") }).end(await answer.text());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => server.close() && server.closeAllConnections());
  return `http://127.0.0.1:${server.address().port}`;
}

/** A way to the site that is closed in the end, whatever happens. */
async function breakable() {
  const way = await proxy();
  ends.push(way.close);
  return way;
}

/** An Echo as docs/how-to/echo.md has it, with a cursor for each channel. */
async function echoOf(someone, at = origin, options = {}) {
  const { hostname, port } = new URL(at);
  const last = {};
  const doors = await jar(someone);
  const echo = new Echo({
    broadcaster: "reverb",
    Pusher,
    key: "converse",
    wsHost: hostname,
    wsPort: Number(port),
    forceTLS: false,
    enabledTransports: ["ws"],
    channelAuthorization: {
      endpoint: `${doors}/broadcasting/auth`,
      transport: "ajax",
      paramsProvider: () => ({ resume: JSON.stringify(last) }),
    },
    userAuthentication: { endpoint: `${doors}/broadcasting/user-auth`, transport: "ajax" },
    ...options,
  });
  echo.connector.pusher.connection.bind("message", (message) => {
    if (message.channel && message.data?.seq != null) last[message.channel] = message.data.seq;
  });
  ends.push(() => echo.disconnect());
  return echo;
}

const subscribed = (channel) => new Promise((resolve, reject) => channel.subscribed(resolve).error(reject));

/** What a page makes of the events: it appends, and takes nothing twice into account. */
function assembled(channel) {
  const told = { texts: {}, statuses: {} };
  channel.listen("MessageCreated", (event) => {
    assert.ok(!(event.messageId in told.texts), "told twice");
    told.texts[event.messageId] = event.content ?? "";
    told.statuses[event.messageId] = event.status;
  });
  channel.listen("StreamUpdate", (event) => {
    if (event.kind === "text") told.texts[event.messageId] += event.chunk;
  });
  for (const name of ["MessageCompleted", "MessageFailed", "MessageCancelled"]) {
    channel.listen(name, (event) => (told.statuses[event.messageId] = event.status));
  }
  return told;
}

/** Compare with the database; say where they part, not the whole texts. */
async function agrees(told, conversation) {
  const { messages } = await act("stored", { conversation });
  assert.deepEqual(Object.keys(told.texts).sort(), messages.map(([id]) => id).sort());
  for (const [id, status, content] of messages) {
    assert.equal(told.statuses[id], status);
    const mine = told.texts[id];
    let at = 0;
    while (at < content.length && mine[at] === content[at]) at += 1;
    assert.ok(mine === content, `${id}: ${mine.length} characters of ${content.length}, differing at ${at}`);
  }
}

const ended = (message) => async () => (await act("message", { message })).status === "completed";

test("a page listens, and a reply streams", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const channel = (await echoOf(ada)).private(`conversation.${conversation}`);
  const chunks = [];
  channel.listen("StreamUpdate", (event) => chunks.push(event));
  await subscribed(channel);
  const { reply } = await act("reply", { conversation, content: lines(20) });
  const { text } = await until(async () => (await ended(reply)()) && act("message", { message: reply }), "the reply");
  await until(() => chunks.map((event) => event.chunk).join("") === text, "its text");
  assert.deepEqual(chunks.map((event) => event.chunkIndex), chunks.map((_, number) => number + 1));
});

test("through cuts at random nothing is lost and nothing comes twice", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const way = await breakable();
  const echo = await echoOf(ada, way.origin);
  const channel = echo.private(`conversation.${conversation}`);
  const told = assembled(channel);
  await subscribed(channel);
  const replies = [];
  for (let number = 0; number < 3; number++) {
    replies.push((await act("reply", { conversation, content: lines(150, 0.02), policy: "allow" })).reply);
  }
  let cuts = 0;
  const socket = echo.connector.pusher.connection;
  const finished = () => replies.every((reply) => told.statuses[reply] === "completed");
  const deadline = Date.now() + 60_000;
  while (!finished() && Date.now() < deadline) {
    await pause(50 + Math.random() * 250);
    if (finished()) break;
    if (socket.state === "connected" && cuts < 12) {
      way.cut();
      cuts += 1;
    } else if (socket.state !== "connected") {
      socket.connect();
    }
  }
  assert.ok(cuts > 3);
  await agrees(told, conversation);
});

test("a connection that is gone while the reply ends is made good for", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const way = await breakable();
  const channel = (await echoOf(ada, way.origin)).private(`conversation.${conversation}`);
  const told = assembled(channel);
  await subscribed(channel);
  const { reply } = await act("reply", { conversation, content: lines(30, 0.02) });
  await until(() => told.texts[reply], "the first words");
  way.refuse = true;
  way.cut();
  await until(ended(reply), "the end");
  way.refuse = false;
  await until(() => told.statuses[reply] === "completed", "the news of it", 40);
  await agrees(told, conversation);
});

test("whispers reach the others", async () => {
  const [ada, bob] = [await person(), await person()];
  const conversation = await ada.conversation();
  await act("share", { conversation, user: bob.id, role: "write" });
  const echoes = [await echoOf(ada), await echoOf(bob)];
  const [one, two] = echoes.map((echo) => echo.private(`conversation.${conversation}`));
  const heard = { one: [], two: [] };
  one.listenForWhisper("typing", (data) => heard.one.push(data));
  two.listenForWhisper("typing", (data) => heard.two.push(data));
  await Promise.all([subscribed(one), subscribed(two)]);
  one.whisper("typing", { name: "Ada" });
  await until(() => heard.two.length, "the whisper");
  assert.deepEqual(heard, { one: [], two: [{ name: "Ada" }] });
});

test("presence: two people, one of them in two tabs", async () => {
  const [ada, bob] = [await person(), await person()];
  const conversation = await ada.conversation();
  await act("share", { conversation, user: bob.id });
  const log = [];
  const mine = (await echoOf(ada)).join(`conversation.${conversation}`);
  mine.here((users) => log.push(["here", users.map((user) => user.id)]));
  mine.joining((user) => log.push(["joining", user.id])).leaving((user) => log.push(["leaving", user.id]));
  await until(() => log.length, "here");
  const [first, second] = [await echoOf(bob), await echoOf(bob)];
  for (const echo of [first, second]) {
    const here = await new Promise((resolve, reject) => echo.join(`conversation.${conversation}`).here(resolve).error(reject));
    assert.deepEqual(here.map((user) => user.id).sort(), [`${ada.id}`, `${bob.id}`].sort());
  }
  first.disconnect();
  await pause(300);
  second.disconnect();
  await until(() => log.length === 3, "bob's leaving");
  assert.deepEqual(log, [["here", [`${ada.id}`]], ["joining", `${bob.id}`], ["leaving", `${bob.id}`]]);
});

const server = () => {
  const { hostname, port } = new URL(origin);
  return new PusherServer({ appId: "converse", key: "converse", secret: "a-secret-that-the-suites-know", host: hostname, port, useTLS: false });
};

test("a program of another publishes, to others only where it says so, and to a person", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const [one, two] = [await echoOf(ada), await echoOf(ada)];
  const heard = [];
  for (const [name, echo] of [["one", one], ["two", two]]) {
    const channel = echo.private(`conversation.${conversation}`).listen(".shipped", (event) => heard.push([name, event.n]));
    await subscribed(channel);
  }
  const name = `private-conversation.${conversation}`;
  await server().trigger(name, "shipped", { n: 1 }, { socket_id: one.socketId() });
  await until(() => heard.length === 1, "the first");
  await server().triggerBatch([{ channel: name, name: "shipped", data: { n: 2 } }]);
  await until(() => heard.length === 3, "the second");
  assert.deepEqual(heard.sort(), [["one", 2], ["two", 1], ["two", 2]]);

  one.connector.signin();
  const { pusher } = one.connector;
  await until(() => pusher.user.user_data?.id === `${ada.id}`, "the sign-in");
  await pusher.user.signinDonePromise;
  const direct = [];
  pusher.user.bind("news", (event) => direct.push(event));
  await until(() => pusher.channel(`#server-to-user-${ada.id}`)?.subscribed ?? pusher.user.serverToUserChannel?.subscribed, "the user's channel");
  await server().sendToUser(`${ada.id}`, "news", { n: 3 });
  await until(() => direct.length, "the news");
  assert.deepEqual(direct, [{ n: 3 }]);
});

test("a program with a wrong secret, or with the log's names, is refused", async () => {
  const ada = await person();
  const name = `private-conversation.${await ada.conversation()}`;
  const wrong = server();
  wrong.config.token.secret = "wrong";
  await assert.rejects(wrong.trigger(name, "x", {}), { status: 401 });
  await assert.rejects(server().trigger(name, "App\\Events\\StreamUpdate", {}), { status: 422 });
});

test("strangers are refused, and error() hears of it", async () => {
  const [ada, eve] = [await person(), await person()];
  const conversation = await ada.conversation();
  const echo = await echoOf(eve);
  const refused = await new Promise((resolve) => echo.private(`conversation.${conversation}`).error(resolve));
  assert.equal(refused.status, 403);
});

test("who loses the right hears of it", async () => {
  const [ada, bob] = [await person(), await person()];
  const conversation = await ada.conversation();
  await act("share", { conversation, user: bob.id });
  const channel = (await echoOf(bob)).private(`conversation.${conversation}`);
  const errors = [];
  await subscribed(channel);
  channel.error((error) => errors.push(error));
  await act("unshare", { conversation, user: bob.id });
  await until(() => errors.length, "the refusal");
  assert.equal(errors[0].status, 403);
});

test("an app that there is not is not asked again", async () => {
  const { pusher } = (await echoOf(await person(), origin, { key: "other" })).connector;
  const errors = [];
  pusher.connection.bind("error", (error) => errors.push(error));
  await until(() => pusher.connection.state === "disconnected", "the refusal");
  assert.equal(errors[0].data?.code ?? errors[0].error?.data?.code, 4001);
});

test("a slow page is asked how far it is, and gets everything", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const way = await breakable();
  const echo = await echoOf(ada, way.origin);
  const channel = echo.private(`conversation.${conversation}`);
  const told = assembled(channel);
  await subscribed(channel);
  const { reply } = await act("reply", { conversation, content: lines(400, 0, 3000) });
  way.hold();
  await until(ended(reply), "the reply", 60);
  way.release();
  await until(() => told.statuses[reply] === "completed", "the end", 40);
  await agrees(told, conversation);
});

test("in Chromium: Echo and useEcho, as the original's documentation has them, in one page", async () => {
  const path = await page("echo.jsx");
  const ada = await person();
  const conversation = await ada.conversation();
  const chromium = await browser();
  try {
    const context = await chromium.newContext();
    await context.addCookies(ada.cookies());
    const tab = await context.newPage();
    const errors = [];
    tab.on("pageerror", (error) => errors.push(String(error)));
    await tab.goto(`${origin}${path}?conversation=${conversation}`);
    await tab.waitForFunction(() => window.subscribed === 2);
    const { reply } = await act("reply", { conversation, content: lines(40) });
    await until(ended(reply), "the reply");
    const { text } = await act("message", { message: reply });
    for (const id of ["echo", "hook", "doubled"]) {
      await tab.waitForFunction(([id, text]) => document.getElementById(id).textContent === text, [id, text]);
    }
    assert.deepEqual(errors, []);
  } finally {
    await chromium.close();
  }
});
