/** The types of converse.js. */

export interface ErrorAnswer {
  code: string;
  reason?: string;
  field?: string;
}

/** An answer that says no. `code` is one of the protocol's, or `closed`, `refused` or `too_large`. */
export class ConverseError extends Error {
  constructor(answer: ErrorAnswer);
  code: string;
  reason: string;
  field?: string;
}

export type Role = "user" | "assistant" | "system" | "tool_call" | "tool_result";
export type Status = "pending" | "streaming" | "waiting" | "completed" | "failed" | "cancelled";
export type Kind = "text" | "reasoning" | "refusal" | "tool_call" | "approval" | "tool_result" | "source" | "file" | "raw";
export type CallState = "writing" | "waiting" | "approved" | "denied" | "running" | "done" | "failed" | "stopped";
export type ConnectionState = "connecting" | "open" | "waiting" | "closed" | "refused";

/** One part of a message, in the order in which it was streamed: see docs/reference/events.md. */
export interface Part {
  type: Kind;
  text?: string;
  id?: string;
  name?: string;
  arguments?: string;
  output?: string;
  isError?: boolean;
  reason?: string;
  url?: string;
  title?: string;
  attachment?: string;
  mimeType?: string;
  size?: number;
}

/** A call of a tool, and what became of it. */
export interface Call {
  type: "tool_call";
  id: string;
  name: string;
  arguments: string;
  state: CallState;
  decision?: "approved" | "denied";
  reason?: string;
  output?: string;
  isError?: boolean;
}

export interface Usage {
  inputTokens: number | null;
  cachedInputTokens: number | null;
  cacheWriteTokens: number | null;
  outputTokens: number | null;
  reasoningTokens: number | null;
}

export interface MessageFields {
  role: Role;
  status: Status;
  attempt: number;
  follows: number;
  replyTo?: string | null;
  clientId?: string | null;
  createdAt?: string;
  finishedAt?: string | null;
  provider?: string;
  model?: string;
  finishReason?: string;
  usage?: Usage;
  metadata?: Record<string, unknown>;
  structured?: unknown;
  error?: { type: string; message: string };
}

/** A message as far as it is known. */
export class Message implements MessageFields {
  constructor(id: string, offset: number);
  readonly id: string;
  readonly offset: number;
  role: Role;
  status: Status;
  attempt: number;
  follows: number;
  replyTo?: string | null;
  clientId?: string | null;
  createdAt?: string;
  finishedAt?: string | null;
  provider?: string;
  model?: string;
  finishReason?: string;
  usage?: Usage;
  metadata?: Record<string, unknown>;
  structured?: unknown;
  error?: { type: string; message: string };
  parts: Part[];
  get text(): string;
  get calls(): Call[];
  get isOpen(): boolean;
}

export interface StreamUpdate {
  conversationId: string;
  messageId: string;
  chunk: string;
  sequence: number;
  offset: number;
  kind: Kind;
  part: number;
  attempt: number;
  toolCallId?: string;
  toolName?: string;
  data?: Record<string, unknown>;
}

export interface MessageEvent extends MessageFields {
  conversationId: string;
  messageId: string;
  offset: number;
  sequence: number;
  content?: string;
  parts?: Part[];
}

export interface MessageDeleted {
  conversationId: string;
  messageId: string;
  offset: number;
  place: number;
  follows: number;
}

export interface ConversationEvent {
  conversationId: string;
  offset: number;
  title: string;
  leaf: number;
}

export interface Replay {
  conversationId: string;
  epoch: string;
  offset: number;
  events: { event: string; data: Record<string, unknown> }[];
}

export interface Snapshot {
  conversationId: string;
  epoch: string;
  offset: number;
  conversation: { title: string; deleted: boolean; leaf: number };
  messages: MessageEvent[];
  gone: { place: number; follows: number }[];
  truncated?: boolean;
}

export interface User {
  id: string;
  name: string;
}

export interface UserEvent {
  conversationId: string;
  user: User;
}

/** What a conversation announces, by its name. */
export interface ConversationEvents {
  StreamUpdate: StreamUpdate;
  MessageCreated: MessageEvent;
  MessageUpdated: MessageEvent;
  MessageCompleted: MessageEvent;
  MessageFailed: MessageEvent;
  MessageCancelled: MessageEvent;
  MessageDeleted: MessageDeleted;
  ConversationCreated: ConversationEvent;
  ConversationUpdated: ConversationEvent;
  ConversationDeleted: ConversationEvent;
  Replay: Replay;
  Snapshot: Snapshot;
  Typing: UserEvent;
  Joining: UserEvent;
  Leaving: UserEvent;
  Here: { conversationId: string; users: User[] };
  branch: MessageEvent | ConversationEvent;
  subscribed: { conversation: string; epoch: string; head: number; mayWrite: boolean };
  refused: ErrorAnswer;
  unsubscribed: ErrorAnswer;
}

/** What the connection announces, by its name. */
export interface ConnectionEvents {
  state: ConnectionState;
  refused: { code: number; reason: string };
}

declare class Emitter<Events> extends EventTarget {
  /** Call back with an event's data each time it comes. Gives what stops listening. */
  listen<Name extends keyof Events & string>(name: Name, callback: (data: Events[Name]) => void): () => void;
}

export interface RetryOptions {
  clientId?: string;
  provider?: string;
  policy?: "reject" | "cancel_previous" | "queue" | "allow";
}

export interface SendOptions extends RetryOptions {
  attachments?: string[];
}

export interface Sent {
  message: string;
  reply: string;
}

export interface Decided {
  message: string;
  call: string;
  decision: "approved" | "denied";
}

/** One conversation as this reader knows it. Use Converse.subscribe() to have one. */
export class Conversation extends Emitter<ConversationEvents> {
  private constructor();
  readonly uuid: string;
  readonly title: string;
  readonly truncated: boolean;
  /** whether there is a right to write here; true until the server has told */
  readonly mayWrite: boolean;
  readonly offset: number | null;
  readonly epoch: string | null;
  get messages(): Message[];
  message(id: string): Message | undefined;
  versions(message: Pick<Message, "role" | "follows">): Message[];
  send(content: string, options?: SendOptions): Promise<Sent>;
  edit(messageId: string, content: string, options?: SendOptions): Promise<Sent>;
  retry(messageId: string, options?: RetryOptions): Promise<Sent>;
  switch(messageId: string): Promise<{ message: string; leaf: number }>;
  approve(messageId: string, callId: string, reason?: string): Promise<Decided>;
  deny(messageId: string, callId: string, reason?: string): Promise<Decided>;
  stop(messageId: string): Promise<{ message: string; status: Status }>;
  typing(): void;
  leave(): void;
}

export interface Clock {
  now(): number;
  setTimeout(callback: () => void, delay: number): unknown;
  clearTimeout(timer: unknown): void;
}

export interface ConverseOptions {
  /** relative to the page; `/converse/ws/` by default */
  url?: string;
  WebSocket?: typeof globalThis.WebSocket;
  clock?: Clock;
  random?: () => number;
}

/** The connection. Comes back by itself until close(), or until the server refuses it for good. */
export class Converse extends Emitter<ConnectionEvents> {
  constructor(options?: ConverseOptions);
  readonly state: ConnectionState;
  readonly url: string;
  readonly clock: Clock;
  connect(): void;
  close(): void;
  subscribe(uuid: string, options?: { after?: number; epoch?: string; presence?: boolean }): Conversation;
}

/** A new client id. */
export function newId(): string;
