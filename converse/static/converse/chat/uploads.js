/** Files on their way to a message: uploaded at once, sent by their ids. */

import { element, icon, iconButton, piece } from "./dom.js";

/** The list of files that go with the next message. Announces `change`, and `complaint` with a text. */
export class Uploads extends EventTarget {
  #say;
  #files = []; // {node, facts}
  #settings;

  /**
   * @param {import("./blocks.js").Speaker} say
   * @param {() => {address: string, token: string, most: number}} settings as they are at the time
   */
  constructor(say, settings) {
    super();
    this.#say = say;
    this.#settings = settings;
    this.node = piece("ul", "uploads");
    this.node.setAttribute("aria-label", say("attachments"));
    this.node.hidden = true;
  }

  get isEmpty() {
    return this.#files.length === 0;
  }

  get isBusy() {
    return this.#files.some(({ facts }) => !facts);
  }

  /** Take those that are here. @returns {{attachment: string, name: string, mimeType: string}[]} */
  take() {
    const taken = this.#files.map(({ facts }) => facts);
    this.put([]);
    return taken;
  }

  /** Put some here that were uploaded before. */
  put(all) {
    this.#files = all.map((facts) => ({ facts, node: null }));
    for (const file of this.#files) file.node = this.#item(file, file.facts.name);
    this.node.replaceChildren(...this.#files.map(({ node }) => node));
    this.#changed();
  }

  /** @param {Iterable<File>} files */
  add(files) {
    for (const file of files) {
      const { most } = this.#settings();
      if (this.#files.length < most) this.#upload(file);
      else return this.#complain(this.#say("too-many", { count: most }));
    }
  }

  async #upload(file) {
    const entry = { facts: null, node: null };
    entry.node = this.#item(entry, file.name);
    entry.node.setAttribute("aria-busy", "true");
    this.#files.push(entry);
    this.node.append(entry.node);
    this.#changed();
    try {
      entry.facts = await upload(file, this.#settings());
      if (!this.#files.includes(entry)) return this.#forget(entry); // removed meanwhile
      entry.node.removeAttribute("aria-busy");
    } catch (error) {
      if (!this.#files.includes(entry)) return;
      this.#remove(entry);
      const reason = error instanceof Refusal ? error.message : this.#say("unreachable");
      this.#complain(this.#say("upload-failed", { name: file.name, reason }));
    }
    this.#changed();
  }

  #item(entry, name) {
    const node = element("li");
    const label = element("span", "", name);
    const remove = iconButton("close", this.#say("remove", { name }), "remove", () => this.#discard(entry));
    label.dir = "auto";
    node.append(icon("file"), label, remove);
    return node;
  }

  #discard(entry) {
    this.#remove(entry);
    if (entry.facts) this.#forget(entry);
  }

  /** Have the server forget it too. What it does not hear of, converse_prune removes. */
  #forget({ facts }) {
    const { address, token } = this.#settings();
    fetch(`${address}${facts.attachment}/`, { method: "DELETE", headers: { "X-CSRFToken": token } }).catch(() => {});
  }

  #remove(entry) {
    this.#files = this.#files.filter((other) => other !== entry);
    entry.node.remove();
    this.#changed();
  }

  #changed() {
    this.node.hidden = this.isEmpty;
    this.dispatchEvent(new Event("change"));
  }

  #complain(text) {
    this.dispatchEvent(new CustomEvent("complaint", { detail: text }));
  }
}

class Refusal extends Error {}

async function upload(file, { address, token }) {
  const body = new FormData();
  body.append("file", file, file.name || "file");
  const answer = await fetch(address, { method: "POST", body, headers: { "X-CSRFToken": token } });
  if (answer.ok) return answer.json();
  const { detail } = await answer.json().catch(() => ({}));
  throw new Refusal(detail ?? String(answer.status));
}
