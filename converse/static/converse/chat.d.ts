/** The types of chat.js. */

import type { Conversation, ConnectionState, Message, SendOptions } from "./converse.js";

export interface Renderers {
  /** Show an answer in the form that was asked for; null leaves it to the element. */
  structured?: (value: any, message: Message) => Node | null;
}

/** `<converse-chat conversation="uuid">` */
export class ConverseChat extends HTMLElement {
  uuid: string;
  renderers: Renderers;
  readonly subscription: Conversation | null;
  readonly state: ConnectionState;
  readonly isReadonly: boolean;
  send(text: string, options?: SendOptions): Promise<boolean>;
  stop(): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "converse-chat": ConverseChat;
  }
  interface HTMLElementEventMap {
    "converse-state": CustomEvent<{ state: ConnectionState }>;
    "converse-title": CustomEvent<{ title: string }>;
    "converse-end": CustomEvent<Record<string, never>>;
  }
}
