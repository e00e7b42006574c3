/** useConversation and useStreamUpdate of converse/react.js, mounted twice as StrictMode does. */

import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useConversation, useStreamUpdate } from "converse/react.js";

window.updates = [];
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    window.sockets.push(this);
  }
};

function Chat({ uuid }) {
  const { messages, title, reply, state, send, stop, retry, isOver } = useConversation(uuid);
  const [heard, setHeard] = useState("");
  useStreamUpdate(uuid, ({ chunk }) => {
    window.updates.push(chunk);
    setHeard(heard + chunk);
  });
  Object.assign(window, { send, stop, retry });
  return (
    <main data-state={state} data-reply={reply?.id ?? ""} data-over={isOver} title={title}>
      {messages.map((message) => (
        <p key={message.id} id={message.id} data-status={message.status}>{message.text}</p>
      ))}
      <output>{heard}</output>
    </main>
  );
}

function App() {
  const [uuid, setUuid] = useState(new URLSearchParams(location.search).get("uuid"));
  window.turn = setUuid;
  return uuid && <Chat key="chat" uuid={uuid} />;
}

createRoot(document.getElementById("root")).render(<StrictMode><App /></StrictMode>);
