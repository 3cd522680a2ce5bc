// render.js: Markdown to DOM nodes, while it is still being written.
//
// The text comes a few characters at a time. A finished line changes the document for good and is never read
// again; the unfinished last line is drawn provisionally and taken back when more of it comes. So an answer
// costs time linear in its length, and a frame costs only what is new plus one leaf of bounded size.
//
// The document is a path of open containers (quote, list, item) that ends in at most one open leaf:
//   text   a paragraph or a heading     `source` is what its nodes after `base` were made from
//   code   a fenced block               lines are appended to one text node
//   table  rows are appended to `body`

import { el } from "./dom.js";
import { inline } from "./inline.js";
import { blockStart, cellsOf, cutBefore, fenceEnds, HALF_MARK, indentOf, isDelimiterRow } from "./block.js";
import { alignOf, codeBlock, removeAfter, rowOf, tableBlock } from "./nodes.js";

// A longer run of text is cut here for good: marks do not reach over the cut, and time stays linear.
const LEAF_CHARS_MAX = 4096;
// `>>>>>>…` would otherwise nest as deep as the model likes.
const DEPTH_MAX = 12;

/** Draws Markdown into `root`; `push` as text comes, `finish` once at its end. */
export class Markdown {
  #stack;
  #leaf = null;
  #tail = "";
  #saved = null;
  // The line before was cut for its length: what follows belongs to the same leaf.
  #cut = false;

  constructor(root) {
    this.#stack = [{ kind: "root", node: root }];
  }

  /** Adds text. */
  push(text) {
    this.#takeBack();
    this.#tail = this.#consume(this.#tail + text);
    this.#provisional();
    this.#draw(true);
  }

  /** The text is complete. */
  finish() {
    this.#takeBack();
    if (this.#tail !== "") this.#line(this.#tail);
    this.#tail = "";
    this.#draw(false);
    this.#leaf = null;
  }

  // Takes the lines that are complete, in pieces where they are too long; answers the rest.
  #consume(text) {
    let start = 0;
    let newline = text.indexOf("\n");
    for (;;) {
      const end = newline < 0 ? text.length : newline;
      if (end - start > LEAF_CHARS_MAX) {
        const piece = cutBefore(text, start, start + LEAF_CHARS_MAX);
        this.#line(text.slice(start, piece));
        this.#cut = true;
        start = piece;
      } else if (newline < 0) {
        return text.slice(start);
      } else {
        this.#line(text.slice(start, end).replace(/\r$/, ""));
        this.#cut = false;
        start = end + 1;
        newline = text.indexOf("\n", start);
      }
    }
  }

  // Draws the unfinished line as if it ended here. Only appends, so that #takeBack can undo it.
  #provisional() {
    if (this.#tail === "" || HALF_MARK.test(this.#tail)) return;
    this.#saved = {
      stack: this.#stack.slice(),
      last: this.#stack.map((container) => container.node.lastChild),
      leaf: this.#leaf,
      fields: this.#leaf && { ...this.#leaf },
      length: this.#leaf?.kind === "code" ? this.#leaf.text.length : 0,
      row: this.#leaf?.kind === "table" ? this.#leaf.body.lastChild : null,
    };
    this.#line(this.#tail, true);
  }

  #takeBack() {
    const saved = this.#saved;
    if (!saved) return;
    this.#saved = null;
    this.#stack = saved.stack;
    saved.stack.forEach((container, i) => removeAfter(container.node, saved.last[i]));
    this.#leaf = saved.leaf;
    if (!saved.leaf) return;
    Object.assign(saved.leaf, saved.fields);
    if (saved.leaf.kind === "code") saved.leaf.text.deleteData(saved.length, saved.leaf.text.length);
    else if (saved.leaf.kind === "table") removeAfter(saved.leaf.body, saved.row);
    else saved.leaf.stale = true;
  }

  #line(raw, provisional = false) {
    if (this.#cut && this.#continueLeaf(raw)) return;
    const { depth, rest } = this.#match(raw);
    if (this.#leaf?.kind === "code" && depth === this.#stack.length) return this.#codeLine(rest, provisional);
    if (rest.trim() === "") return this.#blank(depth);
    const inText = this.#leaf?.kind === "text" && depth === this.#stack.length;
    const start = blockStart(rest, inText);
    // A paragraph runs on even where its quote or item marks were left out.
    if (this.#leaf?.kind === "text" && !start && depth < this.#stack.length) return this.#addText(rest);
    if (depth < this.#stack.length) this.#closeTo(depth);
    return this.#open(rest, start, provisional);
  }

  #continueLeaf(raw) {
    if (this.#leaf?.kind === "code") this.#leaf.text.appendData(raw);
    else if (this.#leaf?.kind === "text") this.#addText(raw, "");
    else return false;
    return true;
  }

  // How many of the open containers this line goes on, and what is left of it inside them.
  #match(raw) {
    let rest = raw;
    let depth = 1;
    for (; depth < this.#stack.length; depth += 1) {
      const container = this.#stack[depth];
      const blank = rest.trim() === "";
      if (container.kind === "quote") {
        const mark = /^ {0,3}> ?/.exec(rest);
        if (!mark) break;
        rest = rest.slice(mark[0].length);
      } else if (container.kind === "item" && !blank) {
        // Models indent by two where the item's text starts at three: take that too.
        const indent = indentOf(rest);
        if (indent.width < Math.min(container.indent, 2)) break;
        rest = indent.strip(container.indent);
      }
    }
    return { depth, rest };
  }

  #blank(depth) {
    this.#closeLeaf();
    const quote = this.#stack.findIndex((container, i) => i >= depth && container.kind === "quote");
    if (quote > 0) this.#closeTo(quote);
  }

  #open(rest, start, provisional) {
    let here = rest;
    let mark = start;
    while (mark && (mark.kind === "quote" || mark.kind === "item") && this.#stack.length < DEPTH_MAX) {
      this.#closeLeaf();
      if (mark.kind === "item") this.#item(mark);
      else this.#quote();
      here = here.slice(mark.length);
      if (here.trim() === "") return;
      mark = blockStart(here, false);
    }
    if (this.#stack.at(-1).kind === "list") this.#pop();
    this.#openLeaf(here, mark, provisional);
  }

  #openLeaf(rest, mark, provisional) {
    if (mark?.kind === "fence") return this.#fence(mark);
    if (mark?.kind === "rule") return this.#single(el("hr"));
    if (mark?.kind === "heading") return this.#heading(mark);
    if (this.#leaf?.kind === "table") {
      if (rest.includes("|")) return this.#row(rest);
      this.#closeLeaf();
    }
    if (this.#leaf?.kind === "text" && isDelimiterRow(rest)) {
      // Half a delimiter row shows nothing: when it is whole, the line above becomes the table's head.
      return provisional || this.#table(rest);
    }
    return this.#addText(rest);
  }

  #quote() {
    if (this.#stack.at(-1).kind === "list") this.#pop();
    this.#container("quote", el("blockquote"));
  }

  #item(mark) {
    const top = this.#stack.at(-1);
    if (top.kind !== "list" || top.ordered !== mark.ordered) {
      if (top.kind === "list") this.#pop();
      const start = mark.ordered && mark.number !== 1 ? mark.number : undefined;
      this.#container("list", el(mark.ordered ? "ol" : "ul", { start }));
      this.#stack.at(-1).ordered = mark.ordered;
    }
    this.#container("item", el("li"));
    this.#stack.at(-1).indent = mark.length;
  }

  #container(kind, node) {
    this.#stack.at(-1).node.append(node);
    this.#stack.push({ kind, node });
  }

  #pop() {
    this.#closeLeaf();
    this.#stack.pop();
  }

  #closeTo(depth) {
    this.#closeLeaf();
    this.#stack = this.#stack.slice(0, depth);
  }

  #closeLeaf() {
    this.#draw(false);
    this.#leaf = null;
  }

  #single(node) {
    this.#closeLeaf();
    this.#stack.at(-1).node.append(node);
  }

  #heading(mark) {
    // The page's own headings are the first two levels.
    const node = el(`h${Math.min(mark.level + 2, 6)}`);
    node.append(inline(mark.text));
    this.#single(node);
  }

  #fence(mark) {
    this.#closeLeaf();
    const { node, text } = codeBlock(mark.language);
    this.#stack.at(-1).node.append(node);
    this.#leaf = { kind: "code", text, fence: mark.fence, indent: mark.indent, empty: true };
  }

  #codeLine(rest, provisional) {
    const leaf = this.#leaf;
    if (fenceEnds(rest, leaf.fence)) {
      this.#leaf = null;
    } else if (!(provisional && /^\s*[`~]+$/.test(rest))) {
      const line = indentOf(rest).strip(leaf.indent);
      leaf.text.appendData(leaf.empty ? line : `\n${line}`);
      leaf.empty = false;
    }
  }

  #table(delimiter) {
    const lines = this.#leaf.source.split("\n");
    const head = cellsOf(lines.pop());
    const aligns = cellsOf(delimiter).map(alignOf);
    if (head.length !== aligns.length) return this.#addText(delimiter);
    this.#leaf.source = lines.join("\n");
    this.#leaf.stale = true;
    const { node } = this.#leaf;
    this.#closeLeaf();
    if (!node.hasChildNodes()) node.remove();
    const table = tableBlock(head, aligns);
    this.#stack.at(-1).node.append(table.node);
    this.#leaf = { kind: "table", body: table.body, aligns };
    return undefined;
  }

  #row(rest) {
    const { aligns, body } = this.#leaf;
    body.append(rowOf("td", cellsOf(rest).slice(0, aligns.length), aligns));
  }

  #addText(rest, join = "\n") {
    const text = join === "" ? rest : rest.trim();
    if (this.#leaf?.kind !== "text") {
      this.#closeLeaf();
      const node = this.#stack.at(-1).node.appendChild(el("p"));
      this.#leaf = { kind: "text", node, base: null, source: text, stale: true };
      return;
    }
    const leaf = this.#leaf;
    if (leaf.source.length + text.length > LEAF_CHARS_MAX) {
      this.#draw(false);
      leaf.base = leaf.node.lastChild;
      leaf.source = "";
    }
    leaf.source += join + text;
    leaf.stale = true;
  }

  #draw(growing) {
    const leaf = this.#leaf;
    if (leaf?.kind !== "text" || (!leaf.stale && growing)) return;
    removeAfter(leaf.node, leaf.base);
    leaf.node.append(inline(leaf.source, growing));
    leaf.stale = false;
  }
}

/** Draws a complete text into `root`. */
export function renderMarkdown(root, text) {
  const markdown = new Markdown(root);
  markdown.push(text);
  markdown.finish();
}
