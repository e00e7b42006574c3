/** A page that draws a conversation through Echo alone, as docs/how-to/echo.md begins: what there is, then what comes. */

import Echo from "laravel-echo";
import Pusher from "pusher-js";

window.Pusher = Pusher;
const echo = new Echo({
  broadcaster: "reverb",
  key: "converse",
  wsHost: location.hostname,
  wsPort: Number(location.port),
  forceTLS: false,
  enabledTransports: ["ws"],
});
window.texts = {};
const show = ({ messageId, content = "" }) => (window.texts[messageId] = content);
echo
  .private(`cache-conversation.${new URLSearchParams(location.search).get("conversation")}`)
  .listen("Snapshot", ({ messages }) => {
    window.texts = {};
    messages.forEach(show);
  })
  .listen("MessageCreated", show)
  .listen("StreamUpdate", ({ messageId, kind, chunk }) => {
    if (kind === "text") window.texts[messageId] += chunk;
  });
