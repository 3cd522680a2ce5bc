// inline.js: the marks inside a line of Markdown (code, strong, emphasis, links) as DOM nodes.
//
// One pass over the text. Every search that looks ahead is either bounded by the next thing of its kind or
// answered from a table made in advance, so hostile input (a megabyte of `[` or `*`) costs linear time.
// Raw HTML is text like any other. Nothing here can make an element but the ones named in this file.

import { el } from "./dom.js";

const SAFE_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const SPECIAL = /[\\`*_~[\]!\nh]/g;
const BARE_URL = /https?:\/\/[^\s<>()[\]"'`*]+/y;
const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };

/**
 * The nodes of `source`. With `open` the text is still growing: a strong or code mark whose end has not come
 * yet is drawn as if it ended here, so that the words do not jump when it does.
 */
export function inline(source, open = false) {
  return new Inline(source, open).parse();
}

/** The address of a link, or null where it is not one of a kind that is safe to follow. */
export function safeHref(raw) {
  try {
    const url = new URL(raw);
    return SAFE_PROTOCOLS.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

class Inline {
  // Flat, in order: {text}, {node}, or {text, opens} / {text, closes} once a mark has found its partner.
  #items = [];
  // For each kind of mark, where in #items its openers are that may still be closed.
  #openers = { "**": [], __: [], "*": [], _: [], "~~": [], "[": [] };

  constructor(source, open) {
    this.source = source;
    this.open = open;
    this.at = 0;
    this.ticks = tickRuns(source);
  }

  parse() {
    const { source } = this;
    while (this.at < source.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(source)?.index ?? source.length;
      this.#text(source.slice(this.at, found));
      this.at = found;
      if (found < source.length) this.#special(source[found]);
    }
    if (this.open) this.#closeGrowing();
    return build(this.#items);
  }

  #special(char) {
    if (char === "\n") this.#node(el("br"), 1);
    else if (char === "\\") this.#escape();
    else if (char === "`") this.#code();
    else if (char === "[") this.#opener("[", "[");
    else if (char === "]") this.#link();
    else if (char === "!") this.#image();
    else if (char === "h") this.#bareUrl();
    else this.#marks(char);
  }

  #text(text) {
    if (text !== "") this.#items.push({ text });
  }

  #node(node, length) {
    this.#items.push({ node });
    this.at += length;
  }

  #plain(length) {
    this.#text(this.source.slice(this.at, this.at + length));
    this.at += length;
  }

  #opener(kind, text) {
    this.#openers[kind].push(this.#items.length);
    this.#items.push({ text });
    this.at += text.length;
  }

  #escape() {
    const next = this.source[this.at + 1] ?? "";
    if (/[!-/:-@[-`{-~]/.test(next)) this.at += 1;
    this.#plain(1);
  }

  #code() {
    const run = runLength(this.source, this.at);
    const inside = this.at + run;
    let end = this.ticks.next(run, inside);
    if (end < 0 && this.open && run <= 2) end = this.source.length;
    if (end < 0) return this.#plain(run);
    const text = this.source.slice(inside, end).replaceAll("\n", " ");
    const padded = text.startsWith(" ") && text.endsWith(" ") && text.trim() !== "";
    return this.#node(el("code", { text: padded ? text.slice(1, -1) : text }), end + run - this.at);
  }

  #bareUrl() {
    BARE_URL.lastIndex = this.at;
    const match = BARE_URL.exec(this.source)?.[0];
    if (!match) return this.#plain(1);
    const raw = match.replace(/[.,;:!?_~]{1,16}$/, "");
    const href = safeHref(raw);
    return href ? this.#node(anchor(href, raw), raw.length) : this.#plain(raw.length || 1);
  }

  // An image is never fetched: it becomes a link that the reader may choose to follow.
  #image() {
    if (this.source[this.at + 1] !== "[") return this.#plain(1);
    this.at += 1;
    return this.#opener("[", "[");
  }

  #link() {
    const opener = this.#openers["["].at(-1);
    if (opener === undefined) return this.#plain(1);
    const target = linkTarget(this.source, this.at + 1);
    if (!target) {
      this.#openers["["].pop();
      return this.#plain(1);
    }
    const href = safeHref(target.raw);
    // An unsafe target leaves its words and loses its address.
    this.#pair(opener, "]", href ? () => anchor(href) : () => el("span"), "[");
    // A link holds no link.
    this.#openers["["].length = 0;
    this.at = target.end;
    return undefined;
  }

  #marks(char) {
    const { source } = this;
    let length = 1;
    while (source[this.at + length] === char) length += 1;
    const before = source[this.at - 1] ?? " ";
    const after = source[this.at + length] ?? " ";
    const word = (c) => /[\p{L}\p{N}]/u.test(c);
    const opens = !/\s/.test(after) && !(char === "_" && word(before));
    const closes = !/\s/.test(before) && !(char === "_" && word(after));
    // Longer runs are rules and decoration, and a lone tilde is a tilde.
    if (length > 3 || (char === "~" && length !== 2) || !(opens || closes)) return this.#plain(length);
    if (closes) length -= this.#close(char, length);
    if (!opens) return this.#plain(length);
    if (length >= 2) this.#opener(char + char, char + char);
    if (length % 2 === 1) this.#opener(char, char);
    return undefined;
  }

  // Closes as much of the run as has an opener, innermost first; answers how many characters that took.
  #close(char, length) {
    let left = length;
    while (left > 0) {
      const double = left >= 2 ? (this.#openers[char + char].at(-1) ?? -1) : -1;
      const single = char === "~" ? -1 : (this.#openers[char].at(-1) ?? -1);
      if (double < 0 && single < 0) break;
      const kind = double > single ? char + char : char;
      this.#pair(Math.max(double, single), kind, () => el(TAGS[kind]), kind);
      this.at += kind.length;
      left -= kind.length;
    }
    return length - left;
  }

  // Joins an opener with an end that stands here. What was opened in between can no longer be closed.
  #pair(opener, text, make, kind) {
    this.#items[opener].opens = make;
    this.#items.push({ text, closes: true });
    for (const stack of Object.values(this.#openers)) {
      while (stack.length > 0 && stack.at(-1) > opener) stack.pop();
    }
    this.#openers[kind].pop();
  }

  #closeGrowing() {
    for (const kind of ["**", "__"]) {
      const opener = this.#openers[kind][0];
      if (opener !== undefined && opener < this.#items.length - 1) {
        return this.#pair(opener, "", () => el("strong"), kind);
      }
    }
    return undefined;
  }
}

// Where the runs of backticks are, by their length: each lookup moves forward only.
function tickRuns(source) {
  const runs = new Map();
  for (const match of source.matchAll(/`+/g)) {
    const length = match[0].length;
    if (!runs.has(length)) runs.set(length, { starts: [], next: 0 });
    runs.get(length).starts.push(match.index);
  }
  return {
    next(length, from) {
      const run = runs.get(length);
      if (!run) return -1;
      while (run.next < run.starts.length && run.starts[run.next] < from) run.next += 1;
      return run.starts[run.next] ?? -1;
    },
  };
}

function runLength(source, at) {
  let end = at;
  while (source[end] === "`") end += 1;
  return end - at;
}

// `(address)` or `(address "title")` at `at`. Brackets end the search: the next `]` starts one of its own.
function linkTarget(source, at) {
  if (source[at] !== "(") return null;
  const match = /\(\s{0,8}<?((?:[^\s<>()[\]]|\([^\s<>()[\]]*\))*)>?(?:\s{1,8}"[^"[\]\n]*")?\s{0,8}\)/y;
  match.lastIndex = at;
  const found = match.exec(source);
  return found ? { raw: found[1], end: match.lastIndex } : null;
}

function anchor(href, text) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", text });
}

function build(items) {
  const root = document.createDocumentFragment();
  const parents = [root];
  let text = "";
  const flush = () => {
    if (text !== "") parents.at(-1).append(text);
    text = "";
  };
  for (const item of items) {
    if (item.text !== undefined && !item.opens && !item.closes) {
      text += item.text;
      continue;
    }
    flush();
    if (item.node) parents.at(-1).append(item.node);
    else if (item.closes) parents.pop();
    else parents.push(parents.at(-1).appendChild(item.opens()));
  }
  flush();
  return root;
}
