/** The conversation through Vercel's useChat. What is said elsewhere it learns of by the element beside it. */

import "./without-eval.mjs"; // before all that follows
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useEffect } from "react";
import { createRoot } from "react-dom/client";

const node = document.getElementById("log");
const { conversation: id, chat: api } = node.dataset;
const history = async () => (await fetch(`${api}/${id}/messages`)).json();

function Chat({ initial }) {
  const { messages, setMessages, resumeStream } = useChat({
    id,
    messages: initial.messages,
    resume: initial.resume,
    transport: new DefaultChatTransport({ api, headers: () => ({ "X-Converse-SDK": "7" }) }),
  });
  useEffect(() => {
    const chat = document.querySelector("converse-chat");
    return chat.subscription?.listen("MessageCreated", async ({ role }) => {
      if (role !== "assistant") return;
      const now = await history();
      setMessages(now.messages);
      if (now.resume) resumeStream();
    });
  }, []);
  return messages.map(({ id, role, parts, metadata }) => (
    <article key={id} data-status={metadata?.status}>
      <b>{role}</b>
      <pre>{parts.map((part) => (part.type === "text" ? part.text : "")).join("")}</pre>
    </article>
  ));
}

const initial = await history();
await customElements.whenDefined("converse-chat");
createRoot(node).render(<Chat initial={initial} />);
