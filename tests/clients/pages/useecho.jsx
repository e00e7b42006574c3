/** A page that follows a conversation with the hook, and goes on after each break where it was. */

import { configureEcho, echo, useEcho } from "@laravel/echo-react";
import Pusher from "pusher-js";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

const last = {};
window.Pusher = Pusher;
configureEcho({
  broadcaster: "reverb",
  key: "converse",
  wsHost: location.hostname,
  wsPort: Number(location.port),
  forceTLS: false,
  enabledTransports: ["ws"],
  channelAuthorization: {
    endpoint: "/broadcasting/auth",
    transport: "ajax",
    paramsProvider: () => ({ resume: JSON.stringify(last) }),
  },
});
echo().connector.pusher.connection.bind("message", ({ channel, data }) => {
  if (channel && data?.seq != null) last[channel] = data.seq;
});

const id = new URLSearchParams(location.search).get("conversation");
window.texts = {};
window.reset = () => echo().connector.pusher.connection.connect();

function Conversation() {
  useEcho(`conversation.${id}`, "StreamUpdate", ({ messageId, chunk, kind }) => {
    if (kind === "text") window.texts[messageId] = (window.texts[messageId] ?? "") + chunk;
  });
  return null;
}

createRoot(document.getElementById("root")).render(<StrictMode><Conversation /></StrictMode>);
window.ready = new Promise((resolve) => setTimeout(() => echo().private(`conversation.${id}`).subscribed(resolve)));
