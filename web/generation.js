// generation.js: one answer from request to end. Knows the wire, not the page.

import { ApiError, call, cancelTask } from "./api.js";
import { events } from "./stream.js";

const CUT_OFF = "The connection ended before the answer was complete. What has arrived is kept.";
const UNREADABLE = "The server sent something this page cannot read.";
// After a cancel the last event, with its counts, normally comes at once; this is how long it is waited for.
const LAST_EVENT_MS_MAX = 1500;

/** One generation. `run` once; `stop` at any time. */
export class Generation {
  #abort = new AbortController();
  #task = null;
  #stopped = false;

  /**
   * Sends `body` (JSON text), tells `onText(text)` and `onWaiting(comment)` what comes, and answers with the end:
   * `{finish, usage, timings}`, and for a failure also `error` (a sentence), `code`, `status` and `retryAfterS`.
   */
  async run(body, { onText, onWaiting }) {
    try {
      const response = await call("api/generate", { method: "POST", body, signal: this.#abort.signal });
      this.#task = response.headers.get("x-task-id");
      if (this.#stopped) this.#cancel();
      return await this.#read(response, onText, onWaiting);
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** Whether `stop` was called. */
  get stopped() {
    return this.#stopped;
  }

  /** Ends the generation: asks the server to, and hangs up if the end does not come soon. */
  stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    // Without a task there is nothing to name yet; hanging up frees the server's slot as well.
    if (this.#task === null) this.#abort.abort();
    else this.#cancel();
  }

  #cancel() {
    setTimeout(() => this.#abort.abort(), LAST_EVENT_MS_MAX);
    cancelTask(this.#task).catch(() => this.#abort.abort());
  }

  async #read(response, onText, onWaiting) {
    for await (const { event, comment } of events(response)) {
      if (comment !== undefined) {
        onWaiting(comment);
        continue;
      }
      if (typeof event?.token === "string" && event.token !== "") onText(event.token);
      if (event?.done) return endOf(event);
      if (event?.error) return endOf({ ...event, finish_reason: "error" });
    }
    return this.#stopped ? { finish: "cancelled" } : { finish: "error", error: CUT_OFF, status: 0 };
  }

  #failed(error) {
    if (this.#stopped || error.name === "AbortError") return { finish: "cancelled" };
    if (error instanceof ApiError) {
      const { message, code, status, retryAfterS } = error;
      return { finish: "error", error: message, code, status, retryAfterS };
    }
    return { finish: "error", error: error instanceof SyntaxError ? UNREADABLE : CUT_OFF, status: 0 };
  }
}

function endOf(event) {
  const error = typeof event.error === "string" ? event.error : event.error?.message;
  const finish = error ? "error" : (event.finish_reason ?? "stop");
  const said = error ?? (finish === "error" ? "The server could not finish this answer. Try again." : undefined);
  return { finish, usage: event.usage, timings: event.timings, error: said, code: event.code };
}
