// message.js: how one turn looks. A turn is drawn once; a growing answer touches only its own end, once a frame.

import { TOO_LONG } from "./context.js";
import { copyButton, el, iconButton } from "./dom.js";
import { Markdown, renderMarkdown } from "./render.js";
import { ThinkSplitter, withoutThinking } from "./thinking.js";

const ENDINGS = {
  length: "Ended at the token limit. Raise it in the settings for longer answers.",
  full: "The model's context is full. Ask on, and the earliest messages make room, or begin a new chat.",
  cancelled: "Stopped.",
};

/** A question: plain text, exactly as it was typed. */
export function questionView(message, { onEdit }) {
  const foot = el(
    "div",
    { class: "foot" },
    copyButton(() => message.content, "Copy message"),
    iconButton("edit", "Edit and ask again", onEdit),
  );
  const words = el("div", { class: "words", text: message.content });
  return el("article", { class: "turn question", "aria-label": "You" }, words, foot);
}

/** An answer. `message` is the stored turn; what is shown is its picked variant. */
export class AnswerView {
  #markdown = null;
  #thinking = null;
  #splitter = null;
  #waiting = "";
  #frame = 0;

  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.words = el("div", { class: "words markdown" });
    this.note = el("p", { class: "note", hidden: true });
    this.foot = el("div", { class: "foot" });
    this.node = el("article", { class: "turn answer", "aria-label": "Answer" }, this.words, this.note, this.foot);
  }

  get variant() {
    return this.message.variants[this.message.picked];
  }

  /** Starts a growing answer. */
  begin() {
    this.words.replaceChildren();
    this.foot.replaceChildren();
    this.node.classList.add("growing");
    this.node.setAttribute("aria-busy", "true");
    this.#markdown = new Markdown(this.words);
    this.#splitter = new ThinkSplitter();
    this.#thinking = null;
    this.say("Waiting for the first token…");
  }

  /** Shows a line under the answer; an empty one hides it. */
  say(text, kind = "") {
    this.note.textContent = text;
    this.note.className = `note ${kind}`;
    this.note.hidden = text === "";
  }

  /** Adds text, drawn with the next frame. */
  push(text) {
    this.#waiting += text;
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#drawWaiting(false);
    });
  }

  #drawWaiting(last) {
    const added = this.#splitter.push(this.#waiting, last);
    this.#waiting = "";
    if (this.note.textContent !== "") this.say("");
    if (added.thinking !== "") this.#thought(added.thinking);
    if (added.answer !== "") this.#markdown.push(added.answer);
    if (added.answer !== "" && this.#thinking) this.#thinking.summary.textContent = "Thoughts";
  }

  #thought(text) {
    if (!this.#thinking) {
      const summary = el("summary", { text: "Thinking…" });
      const body = el("div", { class: "markdown" });
      this.words.before(el("details", { class: "thinking" }, summary, body));
      this.#thinking = { summary, markdown: new Markdown(body) };
    }
    this.#thinking.markdown.push(text);
  }

  /** The answer is complete: its end is in the variant. */
  end() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#drawWaiting(true);
    this.#markdown.finish();
    this.#thinking?.markdown.finish();
    if (this.#thinking) this.#thinking.summary.textContent = "Thoughts";
    this.node.classList.remove("growing");
    this.node.removeAttribute("aria-busy");
    this.#ending();
  }

  /** Draws the picked variant from what is stored. */
  draw() {
    this.words.replaceChildren();
    this.node.querySelector(".thinking")?.remove();
    this.#thinking = null;
    const added = new ThinkSplitter().push(this.variant.content, true);
    if (added.thinking !== "") {
      this.#thought(added.thinking);
      this.#thinking.markdown.finish();
      this.#thinking.summary.textContent = "Thoughts";
    }
    renderMarkdown(this.words, added.answer);
    this.#ending();
  }

  #ending() {
    const { variant } = this;
    if (variant.error) this.say(variant.error, "error");
    else this.say(ENDINGS[variant.finish] ?? "");
    this.foot.replaceChildren(
      ...this.#variantButtons(),
      ...(variant.content === "" ? [] : [copyButton(() => withoutThinking(variant.content), "Copy answer")]),
      this.#againButton(),
      el("span", { class: "stats", text: statsOf(variant) }),
    );
  }

  #againButton() {
    const { onAgain, onEdit } = this.actions;
    if (!this.variant.error) return iconButton("again", "Answer again", onAgain, { class: "icon-button again" });
    // Asking the same once more would be refused once more.
    const [text, click] = this.variant.code === TOO_LONG ? ["Edit message", onEdit] : ["Retry", onAgain];
    return el("button", { type: "button", class: "small-button again", text, on: { click } });
  }

  #variantButtons() {
    const { variants, picked } = this.message;
    if (variants.length < 2) return [];
    const step = (by) => () => {
      this.message.picked = picked + by;
      this.draw();
      this.actions.onPick();
    };
    const count = el("span", { class: "count", text: `${picked + 1} / ${variants.length}` });
    return [
      iconButton("before", "Earlier answer", step(-1), { disabled: picked === 0 }),
      count,
      iconButton("after", "Later answer", step(1), { disabled: picked === variants.length - 1 }),
    ];
  }
}

/** Counts and speeds, as far as the last event told them. */
export function statsOf({ usage, timings, model, error, leftOut }) {
  const parts = [];
  const speed = timings?.tokens_per_second;
  // What failed at once has no speed.
  const said = !error || usage?.completion_tokens > 0;
  if (said && Number.isFinite(usage?.completion_tokens)) parts.push(counted(usage.completion_tokens));
  if (said && Number.isFinite(speed)) parts.push(`${speed.toFixed(speed < 100 ? 1 : 0)} tokens/s`);
  if (Number.isFinite(timings?.first_token_ms)) parts.push(`first after ${duration(timings.first_token_ms)}`);
  if (Number.isFinite(usage?.prompt_tokens)) parts.push(`prompt ${counted(usage.prompt_tokens)}`);
  if (leftOut > 0) parts.push(leftOut === 1 ? "without the first exchange" : `without the first ${leftOut} exchanges`);
  if (model) parts.push(model);
  return parts.join(" · ");
}

const counted = (tokens) => `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`;

function duration(ms) {
  if (ms < 1) return "under 1 ms";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
