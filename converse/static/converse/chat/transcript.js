/** The messages that are shown, in order, and the place where the reader is among them. */

import { element, iconButton, piece } from "./dom.js";
import { focus } from "./message.js";

const NEAR = 60; // pixels from the end that count as the end

export class Transcript {
  #make;
  #unfocused;
  #views = new Map(); // message id -> what shows it
  #list = element("div", "list");
  #empty = piece("p", "empty");
  #earlier = piece("p", "earlier");
  #latest;
  #slot = element("slot"); // what the page puts into the element stands in for the words of an empty one
  #scroller = piece("section", "messages");
  #isAtEnd = true;
  #top = 0;

  /**
   * @param {import("./blocks.js").Speaker} say
   * @param {(message: import("../converse.js").Message) => import("./message.js").MessageView} make
   * @param {() => void} unfocused what had the focus is gone, and nothing stands for it
   */
  constructor(say, make, unfocused) {
    this.#make = make;
    this.#unfocused = unfocused;
    this.#empty.textContent = say("empty");
    this.#earlier.textContent = say("earlier");
    this.#latest = iconButton("down", say("latest"), "latest", () => this.#toEnd());
    this.#empty.hidden = this.#earlier.hidden = this.#latest.hidden = true;
    this.#slot.name = "empty";
    this.#slot.append(this.#empty);
    // A log, but one whose growing nobody wants to be read to them: what is finished is announced.
    this.#scroller.setAttribute("role", "log");
    this.#scroller.setAttribute("aria-live", "off");
    this.#scroller.setAttribute("aria-busy", "true");
    this.#scroller.setAttribute("aria-label", say("messages"));
    this.#scroller.tabIndex = 0;
    this.#scroller.append(this.#earlier, this.#slot, this.#list);
    this.#scroller.addEventListener("scroll", () => this.#scrolled());
    this.node = element("div", "transcript");
    this.node.append(this.#scroller, this.#latest);
    new ResizeObserver(() => this.#isAtEnd && this.#toEnd()).observe(this.#list);
  }

  clear() {
    this.#views.clear();
    for (const node of [...this.#list.children]) if (node.dataset.message) node.remove();
    this.#isAtEnd = true;
  }

  /**
   * Show these messages and no others.
   * @param {import("../converse.js").Message[]} messages
   * @param {{changed: Set<string> | null, versions: Function, isCut: boolean}} options `changed` are the ids of those that are
   *   other than they were shown; null for all
   */
  show(messages, { changed, versions, isCut }) {
    const focused = this.#focused();
    let before = null;
    for (const message of messages) {
      const isNew = this.#views.get(message.id)?.attempt !== message.attempt;
      if (isNew) this.#renew(message);
      const view = this.#views.get(message.id);
      if (isNew || !changed || changed.has(message.id)) view.show(message, versions(message));
      const place = before ? before.nextElementSibling : this.#list.firstElementChild;
      if (view.node !== place) this.#list.insertBefore(view.node, place);
      before = view.node;
    }
    this.#keepOnly(new Set(messages.map(({ id }) => id)));
    if (focused) this.#refocus(focused);
    this.#earlier.hidden = !isCut;
    this.#scroller.setAttribute("aria-busy", "false");
    this.refresh();
  }

  /** Show something else at the end, as a message on its way. */
  add(node) {
    this.#list.append(node);
    this.#isAtEnd = true;
    this.refresh();
    return node;
  }

  refresh() {
    this.#empty.hidden = this.#list.childElementCount > 0;
    this.#slot.hidden = this.#empty.hidden;
    if (this.#isAtEnd) this.#toEnd();
  }

  /** What a listener is told of a message. */
  words(id) {
    return this.#views.get(id)?.words ?? "";
  }

  #renew(message) {
    this.#views.get(message.id)?.node.remove();
    this.#views.set(message.id, this.#make(message));
  }

  #keepOnly(ids) {
    for (const [id, { node }] of this.#views) {
      if (ids.has(id)) continue;
      node.remove();
      this.#views.delete(id);
    }
  }

  /** Which message, counted from the first, has the focus, and on which of its buttons. */
  #focused() {
    const focused = this.#list.getRootNode().activeElement;
    const number = focused ? [...this.#list.children].findIndex((node) => node.contains(focused)) : -1;
    return number >= 0 && { number, className: focused.className, node: focused };
  }

  /** Another version took the place of the one that had the focus. */
  #refocus({ number, className, node }) {
    if (node.isConnected) return;
    const place = this.#list.children[number];
    if (!place || !focus(place, className)) this.#unfocused();
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    const isNear = scrollHeight - scrollTop - clientHeight < NEAR;
    if (isNear) this.#isAtEnd = true;
    else if (scrollTop < this.#top) this.#isAtEnd = false; // what grows below is not the reader's doing
    this.#top = scrollTop;
    this.#latest.hidden = isNear || this.#isAtEnd;
  }

  #toEnd() {
    this.#isAtEnd = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#latest.hidden = true;
  }
}
