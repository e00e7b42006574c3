import { Reader } from "./reader.mjs";

/** Follow an address with the browser's own EventSource; what was read is on the window. */
window.read = (path) => {
  window.reader = new Reader();
  window.source = new EventSource(path);
  window.reader.follow(window.source);
};
const address = new URLSearchParams(location.search).get("follow");
if (address) window.read(address);
