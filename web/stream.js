// stream.js: reads server-sent events from a fetch response, however the network cut them.
//
// Three things go wrong in hand-made readers: a character split over two chunks, an event split over two
// chunks, and a `\r\n` split over two chunks. All three are state here: the decoder's, `rest` and `sawCr`.

// A server that never ends a line must not fill the tab's memory.
const LINE_CHARS_MAX = 4 * 1024 * 1024;

/** Turns decoded text into events; `push` may be called with any cut of the stream. */
export class SseParser {
  #rest = [];
  #restChars = 0;
  #data = [];
  #sawCr = false;

  /** The events that `text` completes: `{data}` for an event, `{comment}` for a comment line. */
  push(text) {
    const found = [];
    let start = 0;
    if (this.#sawCr && text.startsWith("\n")) start = 1;
    if (text.length > 0) this.#sawCr = false;
    const ending = /\r\n|\n|\r/g;
    ending.lastIndex = start;
    for (let match = ending.exec(text); match; match = ending.exec(text)) {
      this.#keep(text.slice(start, match.index));
      start = ending.lastIndex;
      this.#sawCr = match[0] === "\r" && start === text.length;
      this.#line(this.#take(), found);
    }
    this.#keep(text.slice(start));
    return found;
  }

  #keep(piece) {
    if (piece === "") return;
    this.#restChars += piece.length;
    if (this.#restChars > LINE_CHARS_MAX) throw new Error("the server sent a line that is too long");
    this.#rest.push(piece);
  }

  #take() {
    const line = this.#rest.join("");
    this.#rest = [];
    this.#restChars = 0;
    return line;
  }

  #line(line, found) {
    if (line === "") {
      if (this.#data.length > 0) found.push({ data: this.#data.join("\n") });
      this.#data = [];
    } else if (line.startsWith(":")) {
      found.push({ comment: line.slice(1).trim() });
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
    } else if (line === "data") {
      this.#data.push("");
    }
    // `event`, `id` and `retry` mean nothing in this protocol.
  }
}

/** The events of a response as they arrive: `{comment}` or the parsed JSON of an event as `{event}`. */
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder("utf-8");
  const parser = new SseParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      // stream: true keeps the first bytes of a split character for the next chunk.
      const text = done ? decoder.decode() : decoder.decode(value, { stream: true });
      for (const { comment, data } of parser.push(text)) {
        yield comment === undefined ? { event: JSON.parse(data) } : { comment };
      }
      if (done) return;
    }
  } finally {
    // Also reached when the caller leaves early: the server then frees its slot.
    reader.cancel().catch(() => {});
  }
}
