/**
 * Elements made of Markdown's tokens. No HTML is ever put together or parsed, so none that a model writes can come to
 * life: its tags are shown as the text that they are. Pictures are not loaded, for their addresses could carry away
 * what the conversation says: they are links.
 */

import { copyButton, element, piece } from "./dom.js";

const ADDRESS = /^(https?:\/\/|mailto:)/i;
const BREAK = /^<br\s*\/?>$/i;
const ENTITY = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z]{2,6}));/gi;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", deg: "°", times: "×", middot: "·", ndash: "–", mdash: "—", hellip: "…", larr: "←", rarr: "→", euro: "€" };

/**
 * @typedef {(key: string, values?: object) => string} Speaker
 * @param {{type: string}} token
 * @param {Speaker} say
 * @returns {HTMLElement | null} null where the token shows nothing
 */
export function block(token, say) {
  const node = BLOCKS[token.type]?.(token, say) ?? null;
  if (node && token.type !== "code") node.dir = "auto";
  return node;
}

const BLOCKS = {
  paragraph: ({ tokens }, say) => filled("p", tokens, say),
  text: ({ tokens, text }, say) => (tokens ? filled("p", tokens, say) : element("p", "", decoded(text))),
  heading: ({ depth, tokens }, say) => filled(`h${Math.min(depth + 2, 6)}`, tokens, say), // below those of the page
  hr: () => element("hr"),
  html: ({ text }) => element("p", "markup", text.trim()),
  code: ({ text, lang }, say) => codeBlock(text, lang, say),
  blockquote: ({ tokens }, say) => nested("blockquote", tokens, say),
  list(list, say) {
    const node = element(list.ordered ? "ol" : "ul");
    if (list.ordered && list.start !== 1) node.start = list.start;
    node.append(...list.items.map((item) => listItem(item, say)));
    return node;
  },
  table({ header, rows }, say) {
    const node = element("div", "table");
    const table = element("table");
    const head = element("thead");
    const body = element("tbody");
    node.tabIndex = 0; // or the keyboard could not scroll it
    head.append(row(header, "th", say));
    body.append(...rows.map((cells) => row(cells, "td", say)));
    table.append(head, body);
    node.append(table);
    return node;
  },
};

const INLINE = {
  text: ({ tokens, text, escaped }, say) => (tokens ? inline(tokens, say) : [escaped ? text : decoded(text)]),
  escape: ({ text }) => [text],
  checkbox: ({ checked }) => [checked ? "☑ " : "☐ "],
  strong: ({ tokens }, say) => [filled("strong", tokens, say)],
  em: ({ tokens }, say) => [filled("em", tokens, say)],
  del: ({ tokens }, say) => [filled("del", tokens, say)],
  codespan: ({ text }) => [element("code", "", text)],
  br: () => [element("br")],
  html: ({ text }) => [BREAK.test(text) ? element("br") : text],
  link: ({ href, tokens, title }, say) => [link(href, inline(tokens, say), title)],
  image: ({ href, text, title }) => [link(href, [decoded(text) || href], title)],
};

function inline(tokens, say) {
  return tokens.flatMap((token) => INLINE[token.type]?.(token, say) ?? [token.raw]);
}

function filled(name, tokens, say) {
  const node = element(name);
  node.append(...inline(tokens, say));
  return node;
}

function nested(name, tokens, say) {
  const node = element(name);
  node.append(...tokens.map((token) => block(token, say)).filter(Boolean));
  return node;
}

/** What a tight list says stands in its items themselves. */
function listItem({ tokens, loose, task }, say) {
  const node = element("li", task ? "task" : "");
  node.dir = "auto";
  for (const token of tokens) {
    const isBare = token.type === "text" || token.type === "checkbox";
    const inner = !loose && isBare ? INLINE[token.type](token, say) : [block(token, say)];
    node.append(...inner.filter((one) => one !== null));
  }
  return node;
}

function row(cells, name, say) {
  const node = element("tr");
  for (const { tokens, align } of cells) {
    const cell = filled(name, tokens, say);
    cell.dir = "auto";
    if (name === "th") cell.scope = "col";
    if (align) cell.className = align;
    node.append(cell);
  }
  return node;
}

/** A link to where it is safe to go; only its words for any other. */
export function link(href, words, title) {
  const node = element(ADDRESS.test(href) ? "a" : "span");
  node.append(...words);
  if (title) node.title = title;
  if (node.localName === "a") Object.assign(node, { href, target: "_blank", rel: "noopener noreferrer nofollow" });
  return node;
}

function codeBlock(text, lang, say) {
  const node = piece("div", "code");
  const head = element("header");
  const pre = element("pre");
  const code = element("code", "", text);
  node.dir = "ltr";
  pre.tabIndex = 0; // or the keyboard could not scroll it
  pre.setAttribute("aria-label", lang || "code");
  head.append(element("span", "", (lang ?? "").split(/\s/)[0]), copyButton(say("copy-code"), say("copied"), () => code.textContent));
  pre.append(code);
  node.append(head, pre);
  return node;
}

/** Markdown takes HTML's entities, of which those that people use are here. */
function decoded(text) {
  return text.replace(ENTITY, (entity, decimal, hex, name) => {
    if (name) return Object.hasOwn(NAMED, name) ? NAMED[name] : entity;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : "\ufffd";
  });
}
