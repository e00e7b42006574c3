/** Compiled, never run: what a page in TypeScript may write, and what it may not. */

import { Converse, ConverseError, Message, newId } from "../../converse/static/converse/converse.js";
import type { Call, Conversation, Sent, StreamUpdate } from "../../converse/static/converse/converse.js";
import { ConverseChat } from "../../converse/static/converse/chat.js";
import { share } from "../../converse/static/converse/shared.js";
import { SmoothText } from "../../converse/static/converse/smooth.js";
import { useConversation, useStreamUpdate } from "../../converse/static/converse/react.js";

const converse = new Converse({ url: "wss://example.com/ws/", random: () => 0.5 });
const conversation: Conversation = converse.subscribe("uuid", { after: 1, epoch: "e", presence: true });
const stop: () => void = conversation.listen("StreamUpdate", ({ messageId, chunk }) => {
  const message: Message | undefined = conversation.message(messageId);
  const calls: Call[] = message?.calls ?? [];
  console.log(chunk.length, message?.text, calls[0]?.state === "waiting");
});
converse.listen("state", (state) => console.log(state === "open"));
converse.listen("refused", ({ code }) => console.log(code.toFixed()));
stop();
const sent: Promise<Sent> = conversation.send("Hi", { clientId: newId(), attachments: ["uuid"], policy: "queue" });
sent.catch((error: unknown) => error instanceof ConverseError && console.log(error.code, error.field));
new SmoothText((text: string) => text.length).write("x");
share("uuid").release();
const element: ConverseChat = document.querySelector("converse-chat")!;
element.renderers = { structured: (value, message) => document.createTextNode(`${value.name} ${message.id}`) };
element.addEventListener("converse-title", ({ detail }) => detail.title.trim());

export function Chat() {
  const { messages, reply, send, stop } = useConversation("uuid", { presence: true });
  useStreamUpdate("uuid", (update: StreamUpdate) => console.log(update.chunk));
  void send(messages.map(({ text }) => text).join(reply?.id)).then(({ reply }) => reply.length);
  void stop();
}

// @ts-expect-error there is no such event
conversation.listen("Nothing", () => {});
// @ts-expect-error a policy has one of four names
conversation.send("Hi", { policy: "sometimes" });
// @ts-expect-error what the server says is not to be written to
conversation.title = "x";
// @ts-expect-error conversations come from subscribe()
new (conversation.constructor as typeof Conversation)();
// @ts-expect-error a callback is needed
useStreamUpdate("uuid");
