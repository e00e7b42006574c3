import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { SmoothText } from "../../converse/static/converse/smooth.js";

let frames, shown, now, isStill, smooth;

beforeEach(() => {
  [frames, shown, now, isStill] = [[], [], 0, false];
  smooth = new SmoothText((text) => shown.push(text), { frame: (callback) => frames.push(callback), isStill: () => isStill });
});

function frame(milliseconds = 16) {
  now += milliseconds;
  for (const callback of frames.splice(0)) callback(now);
}

test("a text is shown little by little, and all of it within a short while", () => {
  const text = "word ".repeat(200);
  smooth.write(text);
  for (let i = 0; frames.length && i < 1000; i++) frame();
  assert.ok(shown.length > 20);
  assert.ok(now < 3_000, String(now));
  shown.reduce((before, after) => (assert.ok(after.startsWith(before)), after));
  assert.equal(shown.at(-1), text);
});

test("what comes meanwhile is shown on the way", () => {
  for (let i = 1; i <= 50; i++) {
    smooth.write("a".repeat(i * 10));
    frame();
  }
  assert.ok(shown.at(-1).length > 200);
  assert.equal(frames.length, 1); // one at a time
  smooth.finish();
  assert.equal(shown.at(-1).length, 500);
  frame(); // too late
  assert.equal(shown.at(-1).length, 500);
});

test("another text is shown at once", () => {
  smooth.write("abc");
  smooth.write("xyz");
  assert.deepEqual(shown, ["xyz"]);
  smooth.write("xyz");
  smooth.finish();
  assert.deepEqual(shown, ["xyz"]);
});

test("who wants no motion sees all at once", () => {
  smooth.write("word ".repeat(50));
  frame();
  isStill = true;
  frame();
  assert.equal(shown.at(-1).length, 250);
  smooth.write("word ".repeat(60));
  assert.equal(shown.at(-1).length, 300);
});

test("no character is cut through", () => {
  smooth.write("😀".repeat(100));
  while (frames.length) frame(5);
  for (const text of shown) assert.equal(text, text.toWellFormed?.() ?? text);
});
