import assert from "node:assert/strict";
import { test } from "node:test";
import { act, lines, person, proxy, until } from "../site.mjs";

test("a reply of the site's model is what it was told to say, and a client that polls reads it", async () => {
  const ada = await person();
  const conversation = await ada.conversation("Plans");
  const { reply } = await act("reply", { conversation, content: lines(5, 0) });
  const told = await until(async () => {
    const found = await act("message", { message: reply });
    return found.status === "completed" && found;
  });
  assert.equal(told.text.split("\n").length, 6);
  const way = await proxy();
  const read = await ada.fetch(`${way.origin}/converse/conversations/${conversation}/log/`);
  const { data } = await read.json();
  way.close();
  assert.equal(data.messages.at(-1).content, told.text);
});

test("a stranger finds nothing", async () => {
  const [ada, eve] = [await person(), await person()];
  const conversation = await ada.conversation();
  const read = await eve.fetch(`/converse/conversations/${conversation}/log/`);
  assert.equal(read.status, 404);
});
