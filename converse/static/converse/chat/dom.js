/** Making elements. All text enters by textContent, and no style or script is inline: a strict policy is kept. */

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  send: "M10 16V4M5 9l5-5 5 5",
  stop: "M6 6h8v8H6z",
  attach: "M15.500 9.500l-5.700 5.700a3.500 3.500 0 0 1-5-5l6.400-6.400a2.300 2.300 0 0 1 3.300 3.300l-6.300 6.300a1.200 1.200 0 0 1-1.700-1.700l5.300-5.300",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
  check: "M4 10.500l4 4 8-9",
  retry: "M16 10a6 6 0 1 1-1.800-4.300M16 3v4h-4",
  edit: "M12 4l4 4-8 8H4v-4zM10.500 5.500l4 4",
  earlier: "M12 5l-5 5 5 5",
  later: "M8 5l5 5-5 5",
  close: "M5.500 5.500l9 9M14.500 5.500l-9 9",
  file: "M5 3h7l4 4v10H5zM12 3v4h4",
  down: "M10 4v12M5 11l5 5 5-5",
};

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** An element that a page may style from outside, under the name of its class. */
export function piece(name, className, text) {
  const made = element(name, className, text);
  made.setAttribute("part", className);
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add(`icon-${name}`);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function button(text, className, act) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

/** A button that shows a picture and says a label. */
export function iconButton(name, label, className, act) {
  const made = button("", `icon ${className}`, act);
  made.append(icon(name));
  made.title = label;
  made.setAttribute("aria-label", label);
  return made;
}

/** Have a node say a text. What is there already is left alone, so a selection stays. */
export function grow(node, text) {
  const shown = node.textContent;
  if (text === shown) return;
  if (!text.startsWith(shown)) node.textContent = text;
  else if (node.lastChild) node.lastChild.appendData(text.slice(shown.length));
  else node.append(text);
}

/** A button that copies what it is asked for, and says that it did. */
export function copyButton(label, done, read) {
  const made = iconButton("copy", label, "copy", async () => {
    await copy(read(), made);
    made.replaceChildren(icon("check"));
    made.setAttribute("aria-label", done);
    setTimeout(() => {
      made.replaceChildren(icon("copy"));
      made.setAttribute("aria-label", label);
    }, 2_000);
  });
  return made;
}

/** navigator.clipboard is there in secure contexts only. */
async function copy(text, place) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", "visually-hidden");
  area.value = text;
  place.after(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  place.focus();
}

export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
