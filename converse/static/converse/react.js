/**
 * Conversations in React. React is the page's own: this module imports it by its name.
 *
 *     const { messages, send, stop, reply } = useConversation(uuid);
 *     useStreamUpdate(uuid, ({ chunk }) => speak(chunk));
 *
 * All components of a page share one socket, and one subscription a conversation.
 *
 * @module
 */

import { useCallback, useEffect, useMemo, useRef, useSyncExternalStore } from "react";

import { ADDRESS, share } from "./shared.js";

const CHANGES = [
  "StreamUpdate", "MessageCreated", "MessageUpdated", "MessageCompleted", "MessageFailed", "MessageCancelled", "MessageDeleted",
  "ConversationUpdated", "Snapshot", "branch", "subscribed", "refused", "unsubscribed", "ConversationDeleted",
];
const ACTS = ["send", "retry", "edit", "switch", "approve", "deny", "typing", "versions"];
const ENDS = ["refused", "unsubscribed", "ConversationDeleted"];
const EMPTY = Object.freeze({ messages: Object.freeze([]), title: "", reply: null, mayWrite: true, state: "connecting", isLoading: true, isOver: false });

/**
 * Follow a conversation: its messages and all that can be done in it. The messages are the client's own, which change
 * as they grow: give `message.text` to a component that is memoised, not the message.
 */
export function useConversation(uuid, { url = ADDRESS, presence = false } = {}) {
  const store = useMemo(() => new Store(uuid, url, presence), [uuid, url, presence]);
  const known = useSyncExternalStore(store.subscribe, store.read, () => EMPTY);
  return useMemo(() => ({ ...known, ...store.acts }), [known, store]);
}

/** Call back with each piece of text, or of anything else, that is added to a message. */
export function useStreamUpdate(uuid, callback, { url = ADDRESS } = {}) {
  const latest = useRef(callback);
  useEffect(() => {
    latest.current = callback;
  });
  const hear = useCallback((data) => latest.current(data), []);
  useEffect(() => {
    const { conversation, release } = share(uuid, { url });
    const stop = conversation.listen("StreamUpdate", hear);
    return () => {
      stop();
      release();
    };
  }, [uuid, url, hear]);
}

/** What React asks for: a value that stays the same until something has changed. */
class Store {
  #uuid;
  #options;
  #shared = null;
  #known = EMPTY;
  #isOver = false;

  constructor(uuid, url, presence) {
    this.#uuid = uuid;
    this.#options = { url, presence };
    this.acts = Object.fromEntries(ACTS.map((name) => [name, (...given) => this.#act(name, given)]));
    this.acts.stop = () => this.#stop();
  }

  read = () => this.#known;

  subscribe = (changed) => {
    this.#shared = share(this.#uuid, this.#options);
    this.#isOver = false;
    const { converse, conversation, release } = this.#shared;
    const look = () => {
      this.#known = this.#look();
      changed();
    };
    const over = () => {
      this.#isOver = true;
      look();
    };
    const stops = CHANGES.map((name) => conversation.listen(name, ENDS.includes(name) ? over : look));
    stops.push(converse.listen("state", look));
    look();
    return () => {
      for (const stop of stops) stop();
      release();
      this.#shared = null;
    };
  };

  #look() {
    const { converse, conversation } = this.#shared;
    const { messages, title, mayWrite, offset } = conversation;
    const reply = messages.findLast((message) => message.role === "assistant" && message.isOpen) ?? null;
    return { messages, title, reply, mayWrite, state: converse.state, isLoading: offset === null && !this.#isOver, isOver: this.#isOver };
  }

  #act(name, given) {
    if (!this.#shared) throw new Error(`${name}() was called while no component shows the conversation.`);
    return this.#shared.conversation[name](...given);
  }

  #stop() {
    return this.#known.reply ? this.#act("stop", [this.#known.reply.id]) : Promise.resolve(null);
  }
}
