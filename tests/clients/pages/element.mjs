/** A page with nothing but the element, served as a project serves it: without a build. */

const chat = document.createElement("converse-chat");
chat.setAttribute("conversation", new URLSearchParams(location.search).get("conversation"));
chat.setAttribute("base", "/converse/");
const script = document.createElement("script");
script.type = "module";
script.src = "/static/converse/chat.js";
document.body.append(chat, script);
window.text = (id) => chat.subscription?.message(id)?.text;
window.status = (id) => chat.subscription?.message(id)?.status;
