/** The conversation through the browser's own EventSource, which comes back by itself and goes on where it was. */

import { Log } from "./log.js";

const { events } = document.getElementById("log").dataset;
const log = new Log();
const source = new EventSource(events);
for (const name of Log.names) source.addEventListener(name, ({ data }) => log.take(name, JSON.parse(data)));
source.addEventListener("Withdrawn", () => source.close());
