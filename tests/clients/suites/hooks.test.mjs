import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { act, browser, lines, origin, page, person, until } from "../site.mjs";

let chromium, address;

before(async () => {
  chromium = await browser();
  address = await page("hooks.jsx");
});
after(() => chromium?.close());

async function open(ada, conversation) {
  const context = await chromium.newContext();
  await context.addCookies(ada.cookies(origin));
  const tab = await context.newPage();
  await tab.goto(`${origin}${address}?uuid=${conversation}`);
  await tab.waitForSelector("main[data-state=open]", { state: "attached" });
  return tab;
}

const last = (tab) => tab.locator("p").last();
const ended = (tab, status = "completed") => tab.waitForSelector(`p:last-of-type[data-status=${status}]`, { state: "attached" });

test("a conversation streams into a component that was mounted twice, once", async () => {
  const ada = await person();
  const conversation = await ada.conversation("Plans");
  const tab = await open(ada, conversation);
  const { reply } = await tab.evaluate((text) => window.send(text), lines(20));
  await until(() => tab.locator("p").count().then((count) => count === 2), "two messages");
  await ended(tab);
  const { text } = await act("message", { message: reply });
  assert.equal(await last(tab).textContent(), text);
  assert.equal(await tab.evaluate(() => window.updates.join("")), text);
  assert.equal(await tab.locator("output").textContent(), text); // the latest callback is called
  assert.equal(await tab.locator("main").getAttribute("title"), "Plans");
  assert.equal(await tab.evaluate(() => window.sockets.length), 1);
});

test("a reload in the middle loses nothing, and a stop stops", async () => {
  const ada = await person();
  const tab = await open(ada, await ada.conversation());
  const { reply } = await tab.evaluate((text) => window.send(text), lines(500, 0.02));
  await until(async () => (await last(tab).textContent()).split("\n").length > 3, "some lines");
  await tab.reload();
  await tab.waitForSelector(`main[data-reply="${reply}"]`, { state: "attached" });
  await tab.evaluate(() => window.stop());
  await ended(tab, "cancelled");
  const { text, status } = await act("message", { message: reply });
  assert.equal(status, "cancelled");
  assert.equal(await last(tab).textContent(), text);
  assert.equal(await tab.evaluate(() => window.stop()), null);
});

test("another conversation takes the place of the first on the same socket", async () => {
  const ada = await person();
  const [one, other] = [await ada.conversation("One"), await ada.conversation("Other")];
  const tab = await open(ada, one);
  await tab.waitForSelector("main[title=One]", { state: "attached" });
  await tab.evaluate((uuid) => window.turn(uuid), other);
  await tab.waitForSelector("main[title=Other]", { state: "attached" });
  await tab.evaluate((text) => window.send(text), lines(2, 0));
  await ended(tab);
  assert.equal(await tab.evaluate(() => window.sockets.length), 1);
});

test("a conversation that is deleted is over", async () => {
  const ada = await person();
  const conversation = await ada.conversation();
  const tab = await open(ada, conversation);
  await tab.waitForSelector("main[data-over=false]", { state: "attached" });
  await act("delete", { conversation });
  await tab.waitForSelector("main[data-over=true]", { state: "attached" });
});
