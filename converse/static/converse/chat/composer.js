/** Where one writes: a box that grows, files, and one button that sends or stops. */

import { element, iconButton, piece } from "./dom.js";
import { isSend } from "./message.js";
import { Uploads } from "./uploads.js";

const TYPING = 3_000; // milliseconds that somebody is said to type

/** Announces `send` with `{text, files}`, `stop` and `typing`. */
export class Composer extends EventTarget {
  #say;
  #box = element("textarea");
  #send;
  #stop;
  #attach;
  #picker = element("input", "visually-hidden");
  #error = piece("p", "error");
  #hint = piece("span", "hint");
  #connection = piece("span", "connection");
  #uploads;
  #typing;
  #isEager = false; // to send as soon as all files are there

  /**
   * @param {import("./blocks.js").Speaker} say
   * @param {{placeholder: string, longest: number, accept: string, uploads: () => object}} settings
   */
  constructor(say, { placeholder, longest, accept, uploads }) {
    super();
    this.#say = say;
    this.node = piece("form", "composer");
    this.#uploads = new Uploads(say, uploads);
    this.#send = iconButton("send", say("send"), "primary send", () => {});
    this.#send.type = "submit";
    this.#stop = iconButton("stop", say("stop"), "primary stop", () => this.#announce("stop"));
    this.#stop.hidden = true;
    this.#attach = iconButton("attach", say("attach"), "attach", () => this.#picker.click());
    this.#attach.hidden = uploads().most === 0;
    this.#prepareBox(placeholder, longest);
    this.#preparePicker(accept);
    this.#error.setAttribute("role", "alert");
    this.#connection.setAttribute("role", "status");
    this.#hint.textContent = say("hint");
    const box = element("div", "box");
    const foot = element("p", "foot");
    box.append(this.#uploads.node, this.#attach, this.#picker, this.#box, this.#send, this.#stop);
    foot.append(this.#hint, this.#connection);
    this.complain("");
    this.node.append(this.#error, box, foot);
    this.#listen();
  }

  focus() {
    this.#box.focus();
  }

  /** Whether a reply is being written, which can be stopped. */
  set isReplying(isReplying) {
    const leaving = isReplying ? this.#send : this.#stop;
    const hadFocus = this.node.getRootNode().activeElement === leaving;
    this.#stop.hidden = !isReplying;
    this.#send.hidden = isReplying;
    if (hadFocus) this.#box.focus();
  }

  get isReplying() {
    return !this.#stop.hidden;
  }

  set isDisabled(isDisabled) {
    for (const one of [this.#box, this.#send, this.#attach]) one.disabled = isDisabled;
  }

  set connection(state) {
    this.#connection.dataset.state = state;
    this.#connection.textContent = this.#say(`connection.${state}`);
  }

  complain(text) {
    this.#error.textContent = text;
    this.#error.hidden = !text;
  }

  /** Somebody else is typing. */
  showTyping(name) {
    this.#hint.textContent = this.#say("typing", { name });
    this.#hint.classList.add("typing");
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => {
      this.#hint.textContent = this.#say("hint");
      this.#hint.classList.remove("typing");
    }, TYPING);
  }

  /** What could not be sent stands here again, unless something else does. */
  giveBack({ text, files }) {
    this.#box.value ||= text;
    if (this.#uploads.isEmpty) this.#uploads.put(files);
    this.#fit();
  }

  /** @param {Iterable<File>} files */
  attach(files) {
    if (!this.#attach.hidden && !this.#attach.disabled) this.#uploads.add(files);
  }

  #prepareBox(placeholder, longest) {
    this.#box.rows = 1;
    this.#box.dir = "auto";
    this.#box.maxLength = longest;
    this.#box.placeholder = placeholder;
    this.#box.setAttribute("part", "input");
    this.#box.setAttribute("aria-label", this.#say("message"));
  }

  #preparePicker(accept) {
    Object.assign(this.#picker, { type: "file", multiple: true, accept, tabIndex: -1 });
    this.#picker.setAttribute("aria-hidden", "true");
    this.#picker.addEventListener("change", () => {
      this.attach([...this.#picker.files]);
      this.#picker.value = "";
      this.focus();
    });
  }

  #listen() {
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#box.addEventListener("keydown", (event) => {
      if (!isSend(event)) return;
      event.preventDefault();
      this.node.requestSubmit();
    });
    this.#box.addEventListener("input", () => {
      this.#fit();
      this.#announce("typing");
    });
    this.#box.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length === 0) return;
      event.preventDefault();
      this.attach([...event.clipboardData.files]);
    });
    this.#uploads.addEventListener("complaint", ({ detail }) => {
      this.#isEager = false;
      this.complain(detail);
    });
    this.#uploads.addEventListener("change", () => {
      this.#send.setAttribute("aria-busy", this.#uploads.isBusy);
      if (this.#isEager && !this.#uploads.isBusy) this.#submit();
    });
  }

  #submit() {
    const text = this.#box.value.trim();
    this.#isEager = this.#uploads.isBusy;
    if (this.#isEager || this.isReplying || (!text && this.#uploads.isEmpty)) return;
    const files = this.#uploads.take();
    this.#box.value = "";
    this.#fit();
    this.complain("");
    this.#announce("send", { text, files });
  }

  #fit() {
    this.#box.rows = Math.min(8, this.#box.value.split("\n").length);
  }

  #announce(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
