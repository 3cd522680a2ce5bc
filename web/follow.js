// follow.js: keeps the end of a growing conversation in view, unless the reader has gone up to read.

// Nearer to the end than this, the reader wants to see new text come.
const NEAR_END_PX = 80;
const FAR_FROM_END_PX = 240;

/** Follows the end of `content` inside `scroller`. `onMove(far)` tells whether the end is far away. */
export class Follower {
  #following = true;
  #top = 0;

  constructor(scroller, content) {
    this.scroller = scroller;
    this.content = content;
    this.onMove = () => {};
    scroller.addEventListener("scroll", () => this.#moved(), { passive: true });
    // Also fires where a turn takes its true size late, so no caller has to know when drawing is over.
    new ResizeObserver(() => this.#grown()).observe(content);
  }

  toEnd() {
    this.#following = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#top = this.scroller.scrollTop;
  }

  toStart() {
    this.#following = true;
    this.scroller.scrollTop = 0;
    this.#top = 0;
  }

  get #left() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  #moved() {
    const { scrollTop } = this.scroller;
    // Only going up is the reader's: layout moves the other way.
    if (this.#left < NEAR_END_PX) this.#following = true;
    else if (scrollTop < this.#top) this.#following = false;
    this.#top = scrollTop;
    this.onMove(this.#left > FAR_FROM_END_PX);
  }

  #grown() {
    // The empty page has no end to follow.
    if (this.#following && this.content.hasChildNodes()) this.toEnd();
    this.onMove(this.#left > FAR_FROM_END_PX);
  }
}
