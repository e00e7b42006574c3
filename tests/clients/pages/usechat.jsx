import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses } from "ai";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

const api = "/converse/chat";
const token = () => document.cookie.match(/csrftoken=([^;]*)/)?.[1] ?? "";
const headers = () => ({ "X-CSRFToken": token(), "X-Converse-SDK": "7" });
const id = new URLSearchParams(location.search).get("id");

function Chat({ initial }) {
  const [words, setWords] = useState("");
  const { messages, sendMessage, status, stop, addToolApprovalResponse, error } = useChat({
    id,
    messages: initial.messages,
    resume: initial.resume,
    transport: new DefaultChatTransport({ api, headers }),
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
  });
  const stopAll = async () => {
    await fetch(`${api}/${id}/stop`, { method: "POST", headers: headers() });
    stop();
  };
  const send = () => {
    sendMessage({ text: words });
    setWords("");
  };
  return (
    <main data-status={status}>
      {messages.map((message) => (
        <section key={message.id} data-role={message.role}>
          {message.parts.map((part, index) => (
            <Part key={index} part={part} respond={addToolApprovalResponse} />
          ))}
        </section>
      ))}
      {error && <output>{error.message}</output>}
      <textarea value={words} onChange={({ target }) => setWords(target.value)} />
      <button onClick={send}>Send</button>
      <button onClick={stopAll}>Stop</button>
    </main>
  );
}

function Part({ part, respond }) {
  if (part.type === "text") return <p>{part.text}</p>;
  if (part.state === "approval-requested") {
    return <button onClick={() => respond({ id: part.approval.id, approved: true })}>Approve</button>;
  }
  return part.output ? <code>{JSON.stringify(part.output)}</code> : null;
}

async function begin() {
  const answer = await fetch(`${api}/${id}/messages`, { headers: headers() });
  const initial = await answer.json();
  createRoot(document.getElementById("root")).render(
    <StrictMode>
      <Chat initial={initial} />
    </StrictMode>,
  );
}

begin();
