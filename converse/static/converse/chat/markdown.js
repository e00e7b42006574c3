/** Markdown that streams: what is complete is left alone, and only the last block is made anew as it grows. */

import { block } from "./blocks.js";
import { element, grow } from "./dom.js";

let lex = null;
let loading = null;

/** The parser comes when it is needed first. Without it the text is shown as it is written. */
export function load() {
  loading ??= import("./vendor/marked.js").then(({ Lexer }) => (lex = (text) => new Lexer({ gfm: true }).lex(text)));
  return loading;
}

export class Markdown {
  #say;
  #text = "";
  #isDone = false;
  #shown = []; // the blocks: {raw, node, type}
  #settled = 0; // characters before the last block
  #settledBlocks = 0;

  /** @param {import("./blocks.js").Speaker} say */
  constructor(say) {
    this.#say = say;
    this.node = element("div", "prose");
  }

  /** Show a text, of which more may come unless it is done. */
  show(text, isDone) {
    const lines = text.replace(/\r\n?/g, "\n");
    if (lines === this.#text && isDone === this.#isDone) return;
    if (!lines.startsWith(this.#text)) this.#settled = this.#settledBlocks = 0;
    this.#text = lines;
    this.#isDone = isDone;
    if (lex) return this.#render();
    this.node.classList.add("plain");
    grow(this.node, lines);
    load().then(() => this.#render(), () => {});
  }

  #render() {
    if (this.node.classList.contains("plain")) {
      this.node.classList.remove("plain");
      this.node.replaceChildren();
    }
    if (this.#isDone) this.#settled = this.#settledBlocks = 0; // all of it is read as a whole once, to be certain
    const tokens = read(this.#text.slice(this.#settled));
    const isNew = this.#isDone && Object.keys(tokens.links ?? {}).length > 0; // addresses that stand at the end
    const first = this.#settledBlocks;
    let number = first;
    let at = this.#settled;
    for (const token of tokens) {
      if (this.#place(number, token, isNew)) {
        this.#settled = at;
        this.#settledBlocks = number++;
      }
      at += token.raw.length;
    }
    for (const { node } of this.#shown.splice(number)) node.remove();
  }

  /** Show a token as the block of this number; say whether it shows anything. */
  #place(number, token, isNew) {
    const shown = this.#shown[number];
    if (shown?.raw === token.raw && !isNew) return true;
    if (shown?.type === "code" && token.type === "code" && shown.lang === token.lang) {
      grow(shown.node.querySelector("code"), token.text);
      shown.raw = token.raw;
      return true;
    }
    const node = made(token, this.#say);
    if (!node) return false;
    if (shown) shown.node.replaceWith(node);
    else this.node.append(node);
    this.#shown[number] = { raw: token.raw, type: token.type, lang: token.lang, node };
    return true;
  }
}

/** A word that may be an address is looked through anew from each of its letters: a very long one would take minutes. */
const ENDLESS = /\S{2000}/;

/** What is nested deeper than can be followed is shown as it is written. */
function read(text) {
  try {
    return text.includes("@") && ENDLESS.test(text) ? [asWritten(text)] : lex(text);
  } catch {
    return [asWritten(text)];
  }
}

function made(token, say) {
  try {
    return block(token, say);
  } catch {
    return block(asWritten(token.raw), say);
  }
}

function asWritten(text) {
  return { type: "html", raw: text, text };
}
