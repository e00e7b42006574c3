/** Calls of tools as cards: what is asked for, what became of it, and a person's decision where one is waited for. */

import { button, element, grow, parsed, piece } from "./dom.js";
import { facts, isFacts } from "./facts.js";

/**
 * Shows one call of a tool.
 * `decide(call, approved, reason)` gives whether the decision was taken.
 */
export class Call {
  #say;
  #decide;
  #state;
  #arguments;

  constructor({ name }, { say, decide }) {
    this.#say = say;
    this.#decide = decide;
    this.#state = element("span", "state");
    this.#arguments = element("pre", "arguments");
    this.#arguments.dir = "ltr";
    const head = element("header");
    const glyph = element("span", "glyph");
    glyph.setAttribute("aria-hidden", "true");
    head.append(glyph, element("code", "", name), this.#state);
    this.node = piece("section", "call");
    this.node.setAttribute("aria-label", say("call", { name }));
    this.node.append(head, this.#arguments);
  }

  show(call) {
    const isNew = this.node.dataset.state !== call.state;
    if (this.#arguments.localName === "pre") grow(this.#arguments, call.arguments);
    if (!isNew) return;
    this.node.dataset.state = call.state;
    this.#state.textContent = this.#say(`call.${call.state}`);
    this.#conclude(call);
    this.#ask(call);
    if (call.decision && !this.#has("decision")) this.node.append(element("p", "decision", this.#decision(call)));
    if (call.output !== undefined && !this.#has("output")) this.node.append(this.#output(call));
  }

  #has(className) {
    return this.node.querySelector(`:scope > .${className}`);
  }

  /** What is written to its end reads better as a list. */
  #conclude({ state, arguments: given }) {
    const value = state === "writing" ? undefined : parsed(given || "{}");
    if (this.#arguments.localName !== "pre" || !isFacts(value)) return;
    const list = facts(value, this.#say);
    list.classList.add("arguments");
    list.hidden = Object.keys(value).length === 0;
    this.#arguments.replaceWith(list);
    this.#arguments = list;
  }

  #ask(call) {
    this.#has("approval")?.remove();
    if (call.state === "waiting") this.node.append(question(call, this.#say, this.#decide));
  }

  #decision({ decision, reason }) {
    return reason ? this.#say(`${decision}-because`, { reason }) : this.#say(decision);
  }

  #output({ output, isError, decision }) {
    const node = element("details", `output${isError ? " error" : ""}`);
    const value = parsed(output);
    const text = typeof value === "object" && value ? JSON.stringify(value, null, 2) : output;
    const pre = element("pre", "", text);
    pre.dir = "auto";
    pre.tabIndex = 0; // or the keyboard could not scroll it
    node.append(element("summary", "", this.#say("result")), pre);
    node.open = Boolean(isError && decision !== "denied");
    return node;
  }
}

/** Asks for an approval. Return in the reason decides nothing: it would be a guess. */
function question(call, say, decide) {
  const node = element("div", "approval");
  const why = element("input");
  why.placeholder = say("reason");
  why.maxLength = 1000;
  why.dir = "auto";
  why.setAttribute("aria-label", say("reason"));
  const answer = async (approved) => {
    buttons.forEach((one) => (one.disabled = true));
    if (!(await decide(call, approved, why.value.trim()))) buttons.forEach((one) => (one.disabled = false));
  };
  const buttons = [
    button(say("approve"), "primary", () => answer(true)),
    button(say("deny"), "secondary", () => answer(false)),
  ];
  node.append(element("p", "", say("ask-approval")), why, ...buttons);
  return node;
}
