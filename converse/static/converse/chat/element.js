/** `<converse-chat>`: one conversation, live, with all that can be done in it. See docs/reference/element.md. */

import { newId } from "../converse.js";
import { ADDRESS, share } from "../shared.js";
import { Composer } from "./composer.js";
import { element, grow } from "./dom.js";
import { LABELS, speaker } from "./labels.js";
import { load } from "./markdown.js";
import { bubble, MessageView } from "./message.js";
import { sheet } from "./style.js";
import { Transcript } from "./transcript.js";

const MESSAGE_EVENTS = ["MessageCreated", "MessageUpdated", "StreamUpdate", "MessageCompleted", "MessageFailed", "MessageCancelled", "MessageDeleted"];

export class ConverseChat extends HTMLElement {
  static observedAttributes = ["conversation", "url", "base", "labels", "readonly"];

  /** How a page shows some things itself: `structured(value, message)` gives a node. Set it before the element is connected. */
  renderers = this.renderers ?? {};

  #say = speaker();
  #shared = null; // what share() gave
  #stops = []; // listeners to let go of
  #transcript;
  #composer;
  #announcer = element("p", "visually-hidden");
  #unsent = new Map(); // client id -> the element of a message on its way
  #hasChanged = new Set(); // ids of messages to be shown anew
  #isAnew = false; // all of them
  #isScheduled = false;
  #isPlaced = false; // in a page

  constructor() {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
    this.shadowRoot.addEventListener("keydown", ({ key }) => key === "Escape" && this.stop());
    this.addEventListener("dragover", (event) => this.#dragged(event));
    this.addEventListener("dragleave", () => this.removeAttribute("data-drop"));
    this.addEventListener("drop", (event) => this.#dropped(event));
  }

  connectedCallback() {
    this.#isPlaced = true;
    if (this.uuid) this.#begin();
  }

  disconnectedCallback() {
    this.#isPlaced = false;
    this.#end();
  }

  attributeChangedCallback(name, before, after) {
    if (!this.#isPlaced || before === after) return;
    this.#end();
    if (this.uuid) this.#begin();
  }

  /** The conversation's uuid. Set it to show another one. */
  get uuid() {
    return this.getAttribute("conversation") ?? "";
  }

  set uuid(uuid) {
    this.setAttribute("conversation", uuid);
  }

  /** What the client knows: see docs/how-to/front-end.md. @returns {import("../converse.js").Conversation | null} */
  get subscription() {
    return this.#shared?.conversation ?? null;
  }

  /** How the connection is. */
  get state() {
    return this.#shared?.converse.state ?? "closed";
  }

  /** Whether nothing can be done here but to read: so the page says, or the server. */
  get isReadonly() {
    return this.hasAttribute("readonly") || this.subscription?.mayWrite === false;
  }

  focus() {
    this.#composer?.focus();
  }

  /**
   * Say something, as if it were written here.
   * @param {string} text
   * @param {{attachments?: string[], provider?: string, policy?: string}} [options]
   * @returns {Promise<boolean>} whether it was taken
   */
  send(text, options = {}) {
    return this.#send({ text, files: [] }, options);
  }

  /** Stop the reply that is being written, if there is one. */
  stop() {
    const open = this.#reply();
    if (open && !this.isReadonly) this.#attempt(this.subscription.stop(open.id));
  }

  // Beginning and ending.

  #begin() {
    this.#say = speaker(this.#labels());
    this.#shared = share(this.uuid, { url: this.getAttribute("url") ?? ADDRESS, presence: this.hasAttribute("presence") });
    this.#build();
    this.#listen();
    this.#showState(this.state);
    if (this.subscription.offset !== null) this.#renew(); // somebody else on the page follows it already
    if (this.hasAttribute("autofocus")) this.focus();
  }

  #end() {
    for (const stop of this.#stops.splice(0)) stop();
    this.#shared?.release();
    this.#shared = null;
    this.#unsent.clear();
    this.#hasChanged.clear();
    this.#isAnew = false;
    this.shadowRoot.replaceChildren();
  }

  #labels() {
    try {
      return JSON.parse(this.getAttribute("labels") ?? "{}");
    } catch {
      console.error("<converse-chat>: the attribute labels is not JSON.");
      return {};
    }
  }

  #build() {
    const say = this.#say;
    this.#transcript = new Transcript(say, (message) => this.#view(message), () => this.focus());
    this.#composer = new Composer(say, {
      placeholder: this.getAttribute("placeholder") ?? say("placeholder"),
      longest: Number(this.getAttribute("maxlength") ?? 100_000),
      accept: this.getAttribute("accept") ?? "",
      uploads: () => this.#uploads(),
    });
    this.#announcer.setAttribute("aria-live", "polite");
    this.#announcer.textContent = "";
    this.shadowRoot.replaceChildren(this.#transcript.node, this.#announcer, this.#composer.node);
    this.#composer.node.hidden = this.isReadonly;
    this.#composer.addEventListener("send", ({ detail }) => this.#send(detail));
    this.#composer.addEventListener("stop", () => this.stop());
    this.#composer.addEventListener("typing", () => this.subscription?.typing());
  }

  get #files() {
    return `${this.getAttribute("base") ?? "/converse/"}conversations/${this.uuid}/attachments/`;
  }

  #uploads() {
    const cookie = /(?:^|; )csrftoken=([^;]+)/.exec(document.cookie)?.[1] ?? "";
    return { address: this.#files, token: this.getAttribute("csrf-token") ?? cookie, most: Number(this.getAttribute("max-files") ?? 10) };
  }

  #view(message) {
    this.#unsent.get(message.clientId)?.remove();
    this.#unsent.delete(message.clientId);
    const acts = {
      retry: (reply) => this.#attempt(this.subscription.retry(reply.id)),
      edit: (turn, text) => this.#attempt(this.subscription.edit(turn.id, text)),
      turn: (version) => this.#attempt(this.subscription.switch(version.id)),
      decide: (reply, call, approved, reason) => this.#decide(reply, call, approved, reason),
    };
    return new MessageView(message, {
      say: this.#say,
      acts: this.isReadonly ? null : acts,
      files: this.#files,
      smooth: this.hasAttribute("smooth"),
      renderers: this.renderers,
    });
  }

  // Hearing.

  #listen() {
    const { converse, conversation } = this.#shared;
    const hear = (emitter, name, callback) => this.#stops.push(emitter.listen(name, callback));
    hear(converse, "state", (state) => this.#showState(state));
    hear(converse, "refused", () => this.#composer.complain(this.#say("signed-out")));
    hear(conversation, "subscribed", () => this.#permit());
    for (const name of ["Snapshot", "branch"]) hear(conversation, name, () => this.#renew(name === "Snapshot"));
    for (const name of MESSAGE_EVENTS) hear(conversation, name, ({ messageId }) => this.#change(name, messageId));
    for (const name of ["MessageCompleted", "MessageUpdated"]) hear(conversation, name, (data) => this.#later(() => this.#announce(data)));
    hear(conversation, "ConversationUpdated", () => this.#tell("converse-title", { title: conversation.title }));
    hear(conversation, "Typing", ({ user }) => this.#composer.showTyping(user.name));
    for (const name of ["ConversationDeleted", "refused", "unsubscribed"]) hear(conversation, name, () => this.#over());
  }

  /** Give or take the means to write, where the right has come or gone since. */
  #permit() {
    if (this.#composer.node.hidden === this.isReadonly) return;
    this.#composer.node.hidden = this.isReadonly;
    this.#transcript.clear();
    if (this.subscription.offset !== null) this.#renew();
  }

  #showState(state) {
    this.#composer.connection = state;
    this.#tell("converse-state", { state });
  }

  #over() {
    this.#composer.complain(this.#say("ended"));
    this.#composer.isDisabled = true;
    this.#tell("converse-end", {});
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  /** Show all messages anew; from the beginning when they are others than before. */
  #renew(isAfresh = false) {
    if (isAfresh) this.#transcript.clear();
    this.#isAnew = true;
    this.#schedule();
    if (isAfresh) this.#tell("converse-title", { title: this.subscription.title });
  }

  #change(name, id) {
    if (name === "MessageCreated" || name === "MessageDeleted") return this.#renew(); // its versions have one more or less
    this.#hasChanged.add(id);
    this.#schedule();
  }

  /** What comes at once is shown at once, and once. */
  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#later(() => {
      this.#isScheduled = false;
      this.#show();
    });
  }

  #later(callback) {
    queueMicrotask(() => this.#shared && callback());
  }

  #show() {
    const conversation = this.subscription;
    const messages = conversation.messages.filter(({ role }) => role === "user" || role === "assistant");
    const changed = this.#isAnew ? null : this.#hasChanged;
    this.#transcript.show(messages, { changed, versions: (message) => conversation.versions(message), isCut: conversation.truncated });
    this.#isAnew = false;
    this.#hasChanged.clear();
    this.#composer.isReplying = Boolean(this.#reply());
  }

  #reply() {
    return this.subscription?.messages.findLast((message) => message.role === "assistant" && message.isOpen);
  }

  /** Say what a listener has to know: a reply that is there, a decision that is waited for. */
  async #announce({ messageId, status }) {
    await load().catch(() => {}); // what is read out are words, not how they are written
    if (!this.#shared) return;
    const message = this.subscription.message(messageId);
    if (message?.role !== "assistant") return;
    const waiting = message.calls.filter(({ state }) => state === "waiting").map(({ name }) => name);
    if (status === "completed") this.#announcer.textContent = this.#transcript.words(messageId);
    else if (waiting.length) this.#announcer.textContent = this.#say("waits", { names: waiting.join(", ") });
  }

  // Saying.

  async #send({ text, files }, { attachments = files.map(({ attachment }) => attachment), ...options } = {}) {
    if (!this.subscription) throw new Error("<converse-chat> is in no page, or has no conversation.");
    const clientId = newId();
    this.#unsent.set(clientId, this.#transcript.add(unsent(text, files, this.#say)));
    const answer = this.subscription.send(text, { clientId, ...(attachments.length && { attachments }), ...options });
    if (await this.#attempt(answer)) return true;
    this.#unsent.get(clientId)?.remove();
    this.#unsent.delete(clientId);
    this.#transcript.refresh();
    this.#composer.giveBack({ text, files });
    return false;
  }

  #decide(reply, call, approved, reason) {
    const act = approved ? "approve" : "deny";
    this.focus(); // the buttons go with the decision
    return this.#attempt(this.subscription[act](reply.id, call.id, reason));
  }

  /** Wait for a command's answer; say whether it was carried out, and complain if not. */
  async #attempt(answer) {
    this.#composer.complain("");
    try {
      await answer;
      return true;
    } catch (error) {
      if (error.code !== "closed") this.#composer.complain(error.code === "busy" ? this.#say("busy") : error.message);
      return false;
    }
  }

  // Files that are dragged here.

  #dragged(event) {
    if (!event.dataTransfer.types.includes("Files") || this.isReadonly) return;
    event.preventDefault();
    this.setAttribute("data-drop", this.#say("drop"));
  }

  #dropped(event) {
    this.removeAttribute("data-drop");
    if (event.dataTransfer.files.length === 0 || this.isReadonly) return;
    event.preventDefault();
    this.#composer?.attach([...event.dataTransfer.files]);
    this.focus();
  }
}

/** A message on its way. */
function unsent(text, files, say) {
  const node = bubble("user", say);
  const body = element("div", "parts");
  const words = element("div", "text");
  words.dir = "auto";
  node.classList.add("unsent");
  grow(words, text);
  if (text) body.append(words);
  body.append(...files.map(({ name }) => element("p", "file", name)));
  node.append(body);
  return node;
}

export { LABELS };
