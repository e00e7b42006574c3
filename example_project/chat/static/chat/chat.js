/** The example's page: what Converse knows about one conversation, shown. All text enters by textContent. */

import { Converse, newId } from "../converse/converse.js";

const CONNECTION = {
  connecting: "Connecting",
  open: "Live",
  waiting: "Offline, trying again",
  refused: "Signed out",
  closed: "Closed",
};
const STATUS = { pending: "Waiting", streaming: "Writing", failed: "Failed", cancelled: "Stopped" };

const $ = (id) => document.getElementById(id);
const messages = $("messages");
const question = $("question");
const bubbles = new Map(); // message id -> its element
const unsent = new Map(); // client id -> the element of a message on its way
const hint = $("hint").textContent;
let typing; // until when somebody is

const converse = new Converse();
const conversation = converse.subscribe($("chat").dataset.conversation);

// Showing.

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function bubble(role) {
  const article = element("article", `message ${role}`);
  article.append(element("h2", "visually-hidden", role === "user" ? "You" : "Reply"), element("div", "text"), element("footer"));
  return article;
}

/** Make a message's element say what the message says. What is there already is left alone, so a selection stays. */
function show(message) {
  if (!["user", "assistant"].includes(message.role)) return;
  if (!bubbles.has(message.id)) {
    unsent.get(message.clientId)?.remove();
    unsent.delete(message.clientId);
    const article = bubble(message.role);
    article.dataset.message = message.id;
    bubbles.set(message.id, article);
    messages.append(article);
  }
  const article = bubbles.get(message.id);
  article.dataset.status = message.status;
  if (message.role === "assistant") article.setAttribute("aria-busy", message.isOpen);
  grow(article.querySelector(".text"), message.text);
  think(article, message.parts.filter((part) => part?.type === "reasoning").map((part) => part.text).join("\n\n"));
  article.querySelector("footer").replaceChildren(...facts(message));
}

function grow(node, text) {
  const shown = node.textContent;
  if (text.startsWith(shown)) node.append(text.slice(shown.length));
  else node.textContent = text;
  node.normalize();
}

function think(article, reasoning) {
  if (!reasoning) return;
  let details = article.querySelector("details");
  if (!details) {
    details = element("details");
    details.append(element("summary", "", "Thoughts"), element("div", "thoughts"));
    article.querySelector(".text").before(details);
  }
  grow(details.lastChild, reasoning);
}

function* facts(message) {
  if (message.role === "user") return;
  if (STATUS[message.status]) yield element("span", `badge ${message.status}`, STATUS[message.status]);
  if (message.error) yield element("span", "error", message.error.message);
  if (message.finishReason === "length") yield element("span", "", "Cut off at its greatest length");
  if (message.isOpen) return;
  if (message.model) yield element("span", "", message.model);
  if (message.usage?.outputTokens) yield element("span", "", `${message.usage.outputTokens} tokens`);
}

function showAll() {
  for (const article of bubbles.values()) article.remove();
  bubbles.clear();
  conversation.messages.forEach(show);
  messages.setAttribute("aria-busy", "false");
  messages.scrollTop = messages.scrollHeight;
  refresh();
}

function refresh() {
  const replying = Boolean(reply());
  $("stop").hidden = !replying;
  $("send").hidden = replying;
  $("empty").hidden = messages.querySelector(".message") !== null;
  const title = conversation.title || "New conversation";
  $("title").textContent = title;
  document.title = `${title} · Converse`;
  const link = document.querySelector("#conversations [aria-current]");
  if (link) link.textContent = title;
}

/** Do something to the messages, staying at their end if that is where the reader is. */
function keepingPlace(change) {
  const atEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 60;
  change();
  if (atEnd) messages.scrollTop = messages.scrollHeight;
}

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function reply() {
  return conversation.messages.findLast((message) => message.role === "assistant" && message.isOpen);
}

// Hearing.

conversation.listen("Snapshot", showAll);
for (const name of ["MessageCreated", "MessageUpdated", "StreamUpdate", "MessageCompleted", "MessageFailed", "MessageCancelled"]) {
  conversation.listen(name, ({ messageId }) => {
    const message = conversation.message(messageId);
    if (message) keepingPlace(() => show(message));
    if (name !== "StreamUpdate") refresh();
  });
}
conversation.listen("MessageCompleted", ({ messageId }) => {
  $("announcer").textContent = conversation.message(messageId)?.text ?? "";
});
conversation.listen("MessageDeleted", ({ messageId }) => {
  bubbles.get(messageId)?.remove();
  bubbles.delete(messageId);
  refresh();
});
conversation.listen("ConversationUpdated", refresh);
conversation.listen("Typing", ({ user }) => {
  $("hint").textContent = `${user.name} is typing in another window …`;
  clearTimeout(typing);
  typing = setTimeout(() => ($("hint").textContent = hint), 3_000);
});
for (const name of ["ConversationDeleted", "refused", "unsubscribed"]) {
  conversation.listen(name, () => {
    complain("This conversation was deleted, or is no longer yours.");
    question.disabled = $("send").disabled = true;
  });
}
converse.listen("refused", () => complain("You are signed out. Reload the page to sign in again."));
converse.listen("state", (state) => {
  $("connection").dataset.state = state;
  $("connection").textContent = CONNECTION[state];
});

// Saying.

async function send(text) {
  const clientId = newId();
  const article = bubble("user");
  article.classList.add("unsent");
  article.querySelector(".text").textContent = text;
  unsent.set(clientId, article);
  keepingPlace(() => messages.append(article));
  messages.scrollTop = messages.scrollHeight;
  refresh();
  try {
    await conversation.send(text, { clientId });
  } catch (error) {
    article.remove();
    unsent.delete(clientId);
    question.value ||= text;
    complain(error.code === "busy" ? "Wait for the reply to end, or stop it." : error.message);
    refresh();
  }
}

function stop() {
  const open = reply();
  if (open) conversation.stop(open.id).catch((error) => complain(error.message));
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || reply()) return;
  question.value = "";
  complain("");
  send(text);
});
$("stop").addEventListener("click", stop);
question.addEventListener("input", () => {
  conversation.typing();
  question.rows = Math.min(8, question.value.split("\n").length);
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector(":popover-open")) stop();
});

converse.connect();
