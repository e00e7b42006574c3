/** What a message is made of, shown in the order in which it was streamed, each part in an element that grows. */

import { link } from "./blocks.js";
import { Call } from "./calls.js";
import { element, grow, icon, parsed, piece } from "./dom.js";
import { structured } from "./facts.js";
import { Markdown } from "./markdown.js";
import { SmoothText } from "../smooth.js";

const FORM = /^\s*\{\s*("|\}|$)/; // the beginning of an answer in JSON

/**
 * What the parts need to know of where they stand.
 * @typedef {object} Surroundings
 * @property {import("./blocks.js").Speaker} say
 * @property {(call: object, approved: boolean, reason: string) => Promise<boolean>} decide
 * @property {string} files the address of files
 * @property {boolean} smooth whether text is shown at an even pace
 * @property {Record<string, Function>} renderers a page's own
 */

/** Shows the parts of one message. */
export class Parts {
  #shown = new Map(); // number of a part -> what shows it
  #outcome = null;
  #surroundings;

  /** @param {Surroundings} surroundings */
  constructor(surroundings) {
    this.#surroundings = surroundings;
    this.node = element("div", "parts");
  }

  show(message) {
    const calls = new Map(message.calls.map((call) => [call.id, call]));
    message.parts.forEach((part, number) => this.#part(part, number, { message, calls }));
    this.#wait(message);
    if (message.structured !== undefined && !this.#outcome) this.#conclude(message);
  }

  /** What a listener is told of it. */
  get words() {
    const said = [...this.node.querySelectorAll(":scope > :is(.text, .refusal):not([hidden])")];
    return [...said, this.#outcome].map((node) => node?.innerText ?? "").join("\n");
  }

  #part(part, number, { message, calls }) {
    const View = VIEWS[part.type];
    if (!View) return;
    if (!this.#shown.has(number)) this.#insert(number, new View(part, this.#surroundings, message));
    const isLast = number === message.parts.length - 1;
    this.#shown.get(number).show(part, { message, call: calls.get(part.id), isOpen: message.isOpen && isLast });
  }

  #insert(number, view) {
    const after = [...this.#shown.keys()].filter((other) => other > number).sort((a, b) => a - b)[0];
    this.node.insertBefore(view.node, this.#shown.get(after)?.node ?? null);
    this.#shown.set(number, view);
  }

  /** Where nothing was said yet, there is a place for it. */
  #wait(message) {
    const empty = this.node.querySelector(":scope > .empty");
    const isWanted = message.isOpen && this.#shown.size === 0;
    if (isWanted && !empty) this.node.append(element("div", "text empty"));
    else if (!isWanted) empty?.remove();
  }

  #conclude(message) {
    const { say, renderers } = this.#surroundings;
    this.#outcome = renderers.structured?.(message.structured, message) ?? structured(message.structured, say);
    this.node.append(this.#outcome);
  }
}

class Text {
  #markdown;
  #smooth;
  #isDone = false;

  constructor(_, { say, smooth }, { role }) {
    this.node = piece("div", "text");
    this.node.dir = "auto";
    if (role === "user") return;
    this.#markdown = new Markdown(say);
    this.node.append(this.#markdown.node);
    if (smooth) this.#smooth = new SmoothText((text) => this.#markdown.show(text, this.#isDone));
  }

  show({ text }, { message, isOpen }) {
    const isForm = message.role !== "user" && isJson(text, isOpen);
    this.node.hidden = isForm && message.structured !== undefined;
    this.node.classList.toggle("form", isForm);
    if (!this.#markdown) return grow(this.node, text);
    const isProse = this.#markdown.node.parentNode !== null;
    if (isForm && isProse) this.node.replaceChildren();
    if (isForm) return grow(this.node, text);
    if (!isProse) this.node.replaceChildren(this.#markdown.node); // it only looked like a form
    this.#isDone = !isOpen;
    if (!this.#smooth) return this.#markdown.show(text, this.#isDone);
    this.#smooth.write(text);
    if (!isOpen) this.#smooth.finish();
    if (!isOpen) this.#markdown.show(text, true);
  }
}

class Refusal {
  constructor() {
    this.node = piece("div", "refusal");
    this.node.dir = "auto";
  }

  show({ text }) {
    grow(this.node, text);
  }
}

class Reasoning {
  #say;
  #title = element("summary");
  #thoughts = element("div", "thoughts");

  constructor(_, { say }) {
    this.#say = say;
    this.#thoughts.dir = "auto";
    this.node = piece("details", "reasoning");
    this.node.append(this.#title, this.#thoughts);
  }

  show({ text }, { isOpen }) {
    this.node.classList.toggle("open", isOpen);
    this.#title.textContent = this.#say(isOpen ? "thinking" : "thoughts");
    grow(this.#thoughts, text);
  }
}

class ToolCall {
  #card;

  constructor(part, { say, decide, renderers }) {
    this.#card = new (renderers.call ?? Call)(part, { say, decide });
    this.node = this.#card.node;
  }

  show(_, { call }) {
    if (call) this.#card.show(call);
  }
}

class Source {
  constructor({ url, title, text }) {
    this.node = piece("p", "source");
    this.node.dir = "auto";
    this.node.append(text ? `${text} ` : "", link(url ?? "", [title || url || ""]));
  }

  show() {}
}

class File {
  constructor({ attachment, name, mimeType }, { files }) {
    const address = `${files}${encodeURIComponent(attachment)}/`;
    this.node = piece("p", "file");
    const anchor = element("a");
    anchor.href = address;
    if (mimeType?.startsWith("image/")) {
      Object.assign(anchor, { href: `${address}?inline`, target: "_blank", rel: "noopener" });
      anchor.append(picture(`${address}?inline`, name));
    } else anchor.append(icon("file"), element("span", "", name));
    this.node.append(anchor);
  }

  show() {}
}

const VIEWS = { text: Text, refusal: Refusal, reasoning: Reasoning, tool_call: ToolCall, source: Source, file: File };

function picture(src, alt) {
  const node = element("img");
  Object.assign(node, { src, alt, loading: "lazy" });
  return node;
}

function isJson(text, isOpen) {
  return FORM.test(text) && (isOpen || parsed(text) !== undefined);
}
