// announce.js: reads answers to a screen reader. The visible log changes with every token, which would be
// read over and over; here each whole sentence is added once to a polite live region.

import { byId, el } from "./dom.js";

const PIECE_CHARS_MIN = 120;

/** Speaks a growing answer in sentences. */
export class Announcer {
  #waiting = "";
  #region = byId("announcer");

  start() {
    this.#waiting = "";
    this.#region.replaceChildren();
  }

  push(text) {
    this.#waiting += text;
    if (this.#waiting.length < PIECE_CHARS_MIN || !/[.!?…。！？\n]\s*$/.test(text)) return;
    this.#speak(this.#waiting);
    this.#waiting = "";
  }

  end(note) {
    this.#speak(this.#waiting);
    this.#speak(note);
    this.#waiting = "";
  }

  #speak(text) {
    if (text.trim() !== "") this.#region.append(el("p", { text: text.trim() }));
  }
}
