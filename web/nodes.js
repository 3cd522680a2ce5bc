// nodes.js: the larger pieces of rendered Markdown: a code block with its copy button, a table and its rows.

import { copyButton, el } from "./dom.js";
import { inline } from "./inline.js";

/** An empty code block; its text goes into `text`. */
export function codeBlock(language) {
  const text = document.createTextNode("");
  const copy = copyButton(() => text.data, "Copy code");
  const head = el("div", { class: "code-head" }, el("span", { text: language || "text" }), copy);
  // Wide code scrolls by itself, so the keyboard must be able to reach it.
  const pre = el("pre", { tabindex: "0" }, el("code", {}, text));
  return { node: el("div", { class: "code" }, head, pre), text };
}

/** A table with its head; rows go into `body`. */
export function tableBlock(head, aligns) {
  const body = el("tbody");
  const table = el("table", {}, el("thead", {}, rowOf("th", head, aligns)), body);
  return { node: el("div", { class: "table", tabindex: "0" }, table), body };
}

/** The class of a column whose delimiter cell is `cell`. */
export function alignOf(cell) {
  if (!cell.endsWith(":")) return "";
  return cell.startsWith(":") ? "center" : "end";
}

/** A row of cells, each with its own inline marks. */
export function rowOf(tag, cells, aligns) {
  const row = el("tr");
  cells.forEach((cell, i) => {
    const node = el(tag, { class: aligns[i] || undefined });
    node.append(inline(cell));
    row.append(node);
  });
  return row;
}

/** Removes the children that come after `last`; all of them if it is null. */
export function removeAfter(node, last) {
  while (node.lastChild && node.lastChild !== last) node.lastChild.remove();
}
