/** The types of react.js. */

import type { ConnectionState, Conversation, Message, Status, StreamUpdate } from "./converse.js";

export interface ConversationOptions {
  /** of the websocket; `/converse/ws/` by default */
  url?: string;
  presence?: boolean;
}

type Acts = Pick<Conversation, "send" | "retry" | "edit" | "switch" | "approve" | "deny" | "typing" | "versions">;

export interface ConversationState extends Acts {
  /** those that are shown, oldest first */
  messages: readonly Message[];
  title: string;
  /** the reply that is being written, or waits for a person */
  reply: Message | null;
  /** whether there is a right to write here; true until the server has told */
  mayWrite: boolean;
  state: ConnectionState;
  isLoading: boolean;
  /** deleted, or not to be read any more */
  isOver: boolean;
  /** Stop the reply that is being written; null where there is none. */
  stop(): Promise<{ message: string; status: Status } | null>;
}

/** Follow a conversation: its messages and all that can be done in it. */
export function useConversation(uuid: string, options?: ConversationOptions): ConversationState;

/** Call back with each piece of text, or of anything else, that is added to a message. */
export function useStreamUpdate(uuid: string, callback: (update: StreamUpdate) => void, options?: { url?: string }): void;
