// thinking.js: parts a reasoning model's `<think>…</think>` from its answer, as the text comes.

const OPEN = "<think>";
const CLOSE = "</think>";

/** Feeds on pieces of text in order; a tag may be cut anywhere. */
export class ThinkSplitter {
  // "start" until it is known whether the text begins with the tag; then "thinking", "gap" (the blank
  // lines after it) and "answer", or "answer" at once.
  #state = "start";
  #held = "";

  /** What `text` adds to each part; with `last` nothing is held back any more. */
  push(text, last = false) {
    this.#held += text;
    const added = { thinking: "", answer: "" };
    if (this.#state === "start") this.#begin(last);
    if (this.#state === "thinking") this.#think(added, last);
    if (this.#state === "gap") {
      this.#held = this.#held.trimStart();
      if (this.#held !== "") this.#state = "answer";
    }
    if (this.#state === "answer") {
      added.answer = this.#held;
      this.#held = "";
    }
    return added;
  }

  #begin(last) {
    const text = this.#held.trimStart();
    if (text.startsWith(OPEN)) {
      this.#state = "thinking";
      this.#held = text.slice(OPEN.length);
    } else if (last || !OPEN.startsWith(text)) {
      this.#state = "answer";
    }
  }

  #think(added, last) {
    const end = this.#held.indexOf(CLOSE);
    if (end >= 0) {
      added.thinking = this.#held.slice(0, end);
      this.#held = this.#held.slice(end + CLOSE.length);
      this.#state = "gap";
      return;
    }
    const keep = last ? 0 : beginningOf(CLOSE, this.#held);
    added.thinking = this.#held.slice(0, this.#held.length - keep);
    this.#held = this.#held.slice(this.#held.length - keep);
  }
}

// How many characters at the end of `text` may be the beginning of `tag`.
function beginningOf(tag, text) {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length -= 1) {
    if (text.endsWith(tag.slice(0, length))) return length;
  }
  return 0;
}

/** A finished text without its thinking: what a later turn needs of it. */
export function withoutThinking(text) {
  return new ThinkSplitter().push(text, true).answer;
}
