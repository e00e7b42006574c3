/** What a suite can do with the site that `python -m tests.clients` serves. */

import { build } from "esbuild";
import { randomBytes } from "node:crypto";
import { existsSync, writeFileSync } from "node:fs";
import { createServer as createDoor } from "node:http";
import { createServer, connect } from "node:net";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const origin = process.env.CONVERSE_SITE;
const PAGES = process.env.CONVERSE_PAGES;
const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = join(HERE, "../..");
const BROWSERS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const QUIETLY = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"];

/** Have something done inside of the server's process: a function of acts.py. */
export async function act(name, args = {}) {
  const response = await fetch(`${origin}/act/${name}`, { method: "POST", body: JSON.stringify(args) });
  const { result, error } = await response.json();
  if (error) throw new Error(error);
  return result;
}

/** A signed-in user, as a browser's tab is: `fetch` sends the cookies and the CSRF token. */
export async function person() {
  const { user, session } = await act("sign_in");
  const token = randomBytes(16).toString("hex");
  const cookie = `sessionid=${session}; csrftoken=${token}`;
  return {
    id: user,
    session,
    token,
    cookie,
    headers: { Cookie: cookie, "X-CSRFToken": token },
    conversation: (title) => act("conversation", { user, title }),
    fetch(address, { headers, ...options } = {}) {
      const url = new URL(address, origin);
      return fetch(url, { ...options, headers: { Cookie: cookie, "X-CSRFToken": token, ...headers } });
    },
    /** For playwright: `context.addCookies(person.cookies(origin))`. */
    cookies: (url = origin) => [
      { name: "sessionid", value: session, url },
      { name: "csrftoken", value: token, url },
    ],
  };
}

/** Wait until something holds; look again and again. */
export async function until(condition, what = "it", seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The words of a user that have the site's model say so many lines, each after a pause (seconds). */
export const lines = (deltas, pause = 0.01, size = 30) => JSON.stringify({ deltas, pause, size });

/** The words of a user that have the model take steps: `[["say", "Hm."], ["call", ["say", {text: "x"}]]], …`. */
export const steps = (...taken) => JSON.stringify({ steps: taken });

/** A way to the site that breaks when told to: `cut()` ends what is open, `hold()` lets nothing through for a while. */
export async function proxy(target = origin) {
  const { hostname, port } = new URL(target);
  const open = new Map();
  const server = createServer((client) => {
    if (way.refuse) return client.destroy();
    const upstream = connect(Number(port), hostname);
    client.pipe(upstream).pipe(client);
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
    }
    open.set(client, upstream);
    client.on("close", () => open.delete(client));
  });
  const way = {
    refuse: false, // whether nobody gets in any more
    cut() {
      for (const client of open.keys()) client.resetAndDestroy();
    },
    hold() {
      for (const [client, upstream] of open) upstream.unpipe(client).pause();
    },
    release() {
      for (const [client, upstream] of open) upstream.pipe(client);
    },
    close() {
      way.cut();
      server.close();
    },
  };
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  way.port = server.address().port;
  way.origin = `http://127.0.0.1:${way.port}`;
  return way;
}

/** What adds a person's cookies to requests as a browser does, for a client that will not in Node: `{origin, close}`. */
export async function jar(someone) {
  const server = createDoor(async (request, response) => {
    const body = Buffer.concat(await request.toArray());
    const headers = { "Content-Type": request.headers["content-type"] };
    const answer = await someone.fetch(request.url, { method: "POST", headers, body });
    response.writeHead(answer.status, { "Content-Type": answer.headers.get("Content-Type") }).end(await answer.text());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => server.close() && server.closeAllConnections();
  return { origin: `http://127.0.0.1:${server.address().port}`, close };
}

/** A Chromium; `close()` it. */
export async function browser() {
  const executablePath = BROWSERS.find(existsSync);
  if (!executablePath) throw new Error("There is no Chromium here.");
  return chromium.launch({ executablePath, args: QUIETLY });
}

/** Put `pages/<entry>` and all that it imports into one file of the site, with a page; give the page's path. */
export async function page(entry, title = entry) {
  const name = basename(entry).replace(/\.\w+$/, "");
  await build({
    entryPoints: [join(HERE, "pages", entry)],
    outfile: join(PAGES, `${name}.js`),
    bundle: true,
    format: "iife",
    jsx: "automatic",
    logLevel: "error",
    nodePaths: [join(HERE, "node_modules")],
    alias: { converse: join(ROOT, "converse/static/converse") },
    define: { "import.meta.env": "{}", "process.env.NODE_ENV": '"production"' },
  });
  const html = `<!doctype html><meta charset="utf-8"><title>${title}</title><div id="root"></div><script src="${name}.js"></script>`;
  writeFileSync(join(PAGES, `${name}.html`), html);
  return `/pages/${name}.html`;
}
