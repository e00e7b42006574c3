/** The snippets of the original's documentation, side by side: Echo, and the hook under both of its names. */

import { configureEcho, echo, useEcho } from "@laravel/echo-react";
import Pusher from "pusher-js";
import { useState } from "react";
import { createRoot } from "react-dom/client";

window.Pusher = Pusher;
configureEcho({
  broadcaster: "reverb",
  key: "converse",
  wsHost: location.hostname,
  wsPort: Number(location.port),
  forceTLS: false,
  enabledTransports: ["ws"],
});

const id = new URLSearchParams(location.search).get("conversation");

function Reply({ name, channel }) {
  const [text, setText] = useState("");
  useEcho(channel, "StreamUpdate", (event) => setText((before) => before + event.chunk), [channel]);
  return <pre id={name}>{text}</pre>;
}

function App() {
  return (
    <>
      <pre id="echo" />
      <Reply name="hook" channel={`conversation.${id}`} />
      <Reply name="doubled" channel={`private-conversation.${id}`} />
    </>
  );
}

createRoot(document.getElementById("root")).render(<App />);

window.subscribed = 0;
setTimeout(() => {
  echo()
    .private(`conversation.${id}`)
    .listen("StreamUpdate", (event) => {
      document.getElementById("echo").textContent += event.chunk;
    })
    .subscribed(() => (window.subscribed += 1));
  echo()
    .private(`private-conversation.${id}`)
    .subscribed(() => (window.subscribed += 1));
});
