// dom.js: the only way this page makes elements. Text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

// Path data on a 24 by 24 grid, drawn with the text's own colour.
const ICONS = {
  chats: "M4 6h16M4 12h16M4 18h10",
  chevron: "M7 10l5 5 5-5",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  download: "M12 4v11m-5-5l5 5 5-5M5 20h14",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  plus: "M12 5v14M5 12h14",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6",
  send: "M12 20V5m-6 6l6-6 6 6",
  settings: "M4 7h9m5 0h2M4 17h2m5 0h9M15.5 4.5v5M8.5 14.5v5",
  stop: "M7 7h10v10H7z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  upload: "M12 16V4m-5 5l5-5 5 5M5 20h14",
  before: "M14 7l-5 5 5 5",
  after: "M10 7l5 5-5 5",
};

/**
 * An element. `props` may hold `class`, `text`, `on: {event: handler}` and attributes;
 * an attribute that is `false`, `null` or `undefined` is left out, `true` is written empty.
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A drawing of `name`, hidden from screen readers: the control around it carries the words. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(path);
  return svg;
}

/** A button that shows only a drawing; `label` is its name and its tooltip. */
export function iconButton(name, label, onClick, props = {}) {
  const given = { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click: onClick } };
  return el("button", { ...given, ...props }, icon(name));
}

/** The element with this id; the page's own markup always has it. */
export const byId = (id) => document.getElementById(id);

/** Opens a modal dialog that a click on its backdrop closes again. */
export function openDialog(dialog) {
  if (!dialog.open) dialog.showModal();
}

/** Wires a dialog's close button and its backdrop, once. */
export function wireDialog(dialog) {
  dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
  // The dialog has no padding of its own, so a press whose target is the dialog itself is on the backdrop.
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/** Puts text on the clipboard; answers whether it got there. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

// Over plain HTTP from another machine there is no clipboard API; the old command still works there.
function copyBySelection(text) {
  const area = el("textarea", { class: "offscreen", readonly: true, "aria-hidden": "true" });
  area.value = text;
  const host = document.querySelector("dialog[open]") ?? document.body;
  const focused = document.activeElement;
  host.append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    area.remove();
    focused?.focus?.();
  }
}

/** A button that copies what `read()` gives and says so for a moment. */
export function copyButton(read, label) {
  const button = iconButton("copy", label, async () => {
    const words = (await copyText(read())) ? "Copied" : "Could not copy";
    button.dataset.said = words;
    button.setAttribute("aria-label", words);
    setTimeout(() => {
      delete button.dataset.said;
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}
