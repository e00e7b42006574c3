/** The conversation through Laravel Echo as it comes from npm. The channel's cache begins with a snapshot. */

import { Log } from "./log.js";
import Echo from "./vendor/echo.js";

const { conversation } = document.getElementById("log").dataset;
const log = new Log();
const last = {}; // where we were, by channel
const secure = location.protocol === "https:";

const echo = new Echo({
  broadcaster: "reverb",
  key: "converse",
  Pusher: window.Pusher,
  wsHost: location.hostname,
  wsPort: location.port || 80,
  wssPort: location.port || 443,
  forceTLS: secure,
  enabledTransports: ["ws", "wss"],
  channelAuthorization: {
    endpoint: "/broadcasting/auth",
    transport: "ajax",
    paramsProvider: () => ({ resume: JSON.stringify(last) }),
  },
});

echo.connector.pusher.connection.bind("message", ({ channel, data }) => {
  if (channel && data?.seq != null) last[channel] = data.seq;
});
const channel = echo.private(`cache-conversation.${conversation}`);
for (const name of Log.names) channel.listen(name, (data) => log.take(name, data));
