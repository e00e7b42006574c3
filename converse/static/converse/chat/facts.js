/** What is not prose, shown for people: an object as a list of terms, in it lists and further objects. */

import { element, piece } from "./dom.js";

const SECONDS = /^(\d\d:\d\d):00$/; // of a time that nobody means to the second

/** @param {unknown} value */
export function isFacts(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An object's members as a list of terms; those without a value are left out. */
export function facts(object, say) {
  const node = element("dl");
  for (const [name, value] of Object.entries(object)) {
    if (value === null || value === "") continue;
    const pair = element("div");
    pair.append(element("dt", "", name.replaceAll("_", " ")), described(value, say));
    node.append(pair);
  }
  return node;
}

/** An answer in the form that was asked for. */
export function structured(value, say) {
  const node = piece("section", "structured");
  node.setAttribute("aria-label", say("answer"));
  if (isFacts(value)) node.append(facts(value, say));
  else node.append(...described(value, say).childNodes);
  return node;
}

function described(value, say) {
  const node = element("dd");
  node.dir = "auto";
  if (Array.isArray(value)) node.append(list(value, say));
  else if (isFacts(value)) node.append(facts(value, say));
  else if (typeof value === "boolean") node.textContent = say(value ? "yes" : "no");
  else node.textContent = String(value).replace(SECONDS, "$1");
  return node;
}

function list(values, say) {
  const node = element("ul");
  for (const value of values) {
    const item = element("li");
    item.append(...described(value, say).childNodes);
    node.append(item);
  }
  return node;
}
