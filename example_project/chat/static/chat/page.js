/** What the example adds to the element: its title around it, and its own way to show what the agent did. */

const chat = document.querySelector("converse-chat");

/** The agent's answer has a form (Outcome in agent.py): its title says it first, its note last. */
function outcome({ booked, note, ...facts }) {
  const node = make("section", `outcome ${booked ? "good" : "none"}`);
  const list = make("dl", "facts");
  for (const [name, value] of Object.entries(facts)) {
    if (value !== null) list.append(make("dt", "", name), make("dd", "", String(value).replace(/^(\d\d:\d\d):00$/, "$1")));
  }
  node.append(make("h3", "", booked ? "Booked" : "Nothing booked"), list, make("p", "", note));
  return node;
}

function make(name, part, text = "") {
  const node = document.createElement(name);
  if (part) node.setAttribute("part", part);
  node.textContent = text;
  return node;
}

chat.renderers = { structured: (value, message) => ("booked" in value ? outcome(value, message) : null) };

chat.addEventListener("converse-title", ({ detail }) => {
  const title = detail.title || "New conversation";
  document.getElementById("title").textContent = title;
  document.title = `${title} · Converse`;
  const link = document.querySelector("#conversations [aria-current]");
  if (link) link.textContent = title;
});
