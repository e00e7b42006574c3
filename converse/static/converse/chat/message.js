/** One message: what it is made of, what is known of it, and what can be done with it. */

import { button, copyButton, element, iconButton, piece } from "./dom.js";
import { Parts } from "./parts.js";

/**
 * What can be done: each gives whether it was done.
 * @typedef {object} Acts
 * @property {(message: object) => Promise<boolean>} retry
 * @property {(message: object, text: string) => Promise<boolean>} edit
 * @property {(message: object) => Promise<boolean>} turn show this version
 * @property {(message: object, call: object, approved: boolean, reason: string) => Promise<boolean>} decide
 */

export class MessageView {
  #say;
  #acts;
  #parts;
  #footer = piece("footer", "footer");
  #known = null; // what the footer says
  #message;
  #editor = null;

  /**
   * @param {import("../converse.js").Message} message
   * @param {{say: import("./blocks.js").Speaker, acts: Acts | null, files: string, smooth: boolean, renderers: object}} surroundings
   *   without `acts` nothing can be done but to read
   */
  constructor(message, { say, acts, ...surroundings }) {
    this.#say = say;
    this.#acts = acts;
    this.#message = message;
    this.attempt = message.attempt;
    const decide = (call, approved, reason) => acts?.decide(this.#message, call, approved, reason);
    this.#parts = new Parts({ ...surroundings, say, decide });
    this.node = bubble(message.role, say);
    this.node.dataset.message = message.id;
    this.node.append(this.#parts.node, this.#footer);
  }

  /** What a listener is told of it. */
  get words() {
    return this.#parts.words;
  }

  /**
   * Have it say what the message says. What is there already is left alone, so a selection stays.
   * @param {import("../converse.js").Message} message
   * @param {import("../converse.js").Message[]} versions itself among them
   */
  show(message, versions) {
    this.#message = message;
    this.node.dataset.status = message.status;
    if (message.role === "assistant") this.node.setAttribute("aria-busy", message.isOpen);
    this.#parts.show(message);
    const known = JSON.stringify([message.status, message.error, message.usage, message.model, versions.map(({ id }) => id)]);
    if (known === this.#known) return;
    this.#known = known;
    keepingFocus(this.#footer, () => this.#footer.replaceChildren(...this.#facts(versions), this.#buttons(versions)));
  }

  *#facts() {
    const { role, status, error, finishReason, isOpen, model, usage } = this.#message;
    if (role === "user") return;
    if (status !== "completed") yield element("span", `badge ${status}`, this.#say(`status.${status}`));
    if (error) yield element("span", "error", error.message);
    if (finishReason === "length") yield element("span", "", this.#say("length"));
    if (!isOpen && model) yield element("span", "fact", model);
    if (!isOpen && usage?.outputTokens) yield element("span", "fact", this.#say("tokens", { count: usage.outputTokens }));
  }

  #buttons(versions) {
    const { role, text, isOpen, replyTo, status } = this.#message;
    const node = element("span", "acts");
    if (isOpen) return node;
    if (versions.length > 1) node.append(...this.#versions(versions));
    if (text) node.append(copyButton(this.#say("copy"), this.#say("copied"), () => this.#message.text));
    if (!this.#acts) return node;
    const retry = () => this.#acts.retry(this.#message);
    if (role === "user") node.append(iconButton("edit", this.#say("edit"), "edit", () => this.#edit()));
    else if (replyTo && status === "failed") node.append(button(this.#say("retry-failed"), "secondary retry", retry));
    else if (replyTo) node.append(iconButton("retry", this.#say("retry"), "retry", retry));
    return node;
  }

  /** Leads from one version to the others. */
  *#versions(versions) {
    const number = versions.indexOf(this.#message);
    const lead = (name, other) => {
      const made = iconButton(name, this.#say(`${name}-version`), `turn ${name}`, () => this.#acts?.turn(other));
      made.disabled = !other || !this.#acts;
      return made;
    };
    yield lead("earlier", versions[number - 1]);
    yield element("span", "version", this.#say("version", { number: number + 1, count: versions.length }));
    yield lead("later", versions[number + 1]);
  }

  #edit() {
    if (this.#editor) return this.#editor.querySelector("textarea").focus();
    const close = () => {
      this.#editor.replaceWith(this.#parts.node);
      this.#editor = null;
      this.#footer.hidden = false;
      this.#footer.querySelector(".edit")?.focus();
    };
    this.#editor = editor(this.#message.text, this.#say, {
      cancel: close,
      save: async (text) => {
        if (text === this.#message.text || (await this.#acts.edit(this.#message, text))) close();
      },
    });
    this.#parts.node.replaceWith(this.#editor);
    this.#footer.hidden = true;
    this.#editor.querySelector("textarea").focus();
  }
}

/** An empty message of one side. */
export function bubble(role, say) {
  const node = piece("article", "message");
  const who = role === "user" ? "you" : "reply";
  node.classList.add(role);
  node.setAttribute("part", `message ${role}`);
  node.setAttribute("aria-label", say(who));
  return node;
}

function editor(text, say, { save, cancel }) {
  const form = element("form", "editor");
  const box = element("textarea");
  const send = element("button", "primary", say("save"));
  box.value = text;
  box.rows = Math.min(8, text.split("\n").length);
  box.dir = "auto";
  box.setAttribute("aria-label", say("edit-message"));
  form.append(box, button(say("cancel"), "secondary", cancel), send);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!box.value.trim()) return;
    send.disabled = true;
    await save(box.value.trim());
    send.disabled = false;
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (isSend(event)) {
      event.preventDefault();
      if (!send.disabled) form.requestSubmit();
    }
  });
  return form;
}

/** Return sends; with Shift, or while letters are put together, it does not. */
export function isSend({ key, target, shiftKey, isComposing }) {
  return key === "Enter" && target.localName === "textarea" && !shiftKey && !isComposing;
}

/** Make a node's buttons anew, and leave the focus on the one that stands for the one that had it. */
function keepingFocus(node, change) {
  const focused = node.contains(node.getRootNode().activeElement) ? node.getRootNode().activeElement.className : null;
  change();
  if (focused !== null) focus(node, focused);
}

/** Focus the button of this class, or another one that can be used; say whether there is one. */
export function focus(node, className) {
  const buttons = [...node.querySelectorAll("button:enabled")];
  const chosen = buttons.find((one) => one.className === className) ?? buttons[0];
  chosen?.focus();
  return chosen !== undefined;
}
