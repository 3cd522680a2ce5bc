// context.js: what a model is reminded of: the exchanges before a question, as far as its context holds them.
//
// Only the server can count tokens. What it counted for the last answer says how many a character takes, which is
// enough to guess when room runs out; where the guess was too high, the server's refusal brings the exact count.

import { withoutThinking } from "./thinking.js";

// An answer gets what it may take at most, but no more than this share of the context.
const ANSWER_SHARE = 1 / 4;

/** The code of an answer that was refused because its prompt is too long. */
export const TOO_LONG = "context_length_exceeded";

/** The variant of an answer that is shown. */
export const picked = (message) => message?.variants?.[message.picked];

/** All tokens that an answer and its prompt took, as the server counted them. */
export const tokensOf = ({ usage } = {}) => usage?.total_tokens ?? (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0);

/** A question's past. `leftOut` of its earliest exchanges are not sent. */
export class Past {
  #exchanges = [];
  #chars;
  #room;
  leftOut = 0;

  /**
   * `messages` are the turns before `question`; `system` goes before them all. `context` is the model's, in tokens,
   * where it is known, and `answer` what an answer may take of it.
   */
  constructor(messages, { question, system, model, context, answer }) {
    // A question whose answer never came would only confuse the model.
    for (let i = 0; i + 1 < messages.length; i += 2) {
      const said = withoutThinking(picked(messages[i + 1])?.content ?? "");
      if (said !== "") this.#exchanges.push({ question: messages[i].content, answer: said });
    }
    this.#chars = question.length + system.length;
    this.#room = context - Math.min(answer, Math.floor(context * ANSWER_SHARE));
    const last = messages.map(picked).findLast((variant) => variant?.usage && variant.content !== "" && !variant.error);
    if (!last) return;
    // Another model may hold more.
    if (last.model === model) this.leftOut = Math.min(last.leftOut ?? 0, this.#exchanges.length);
    const counted = this.#charsFrom(last.leftOut ?? 0) + system.length;
    if (counted > 0) this.#shrink(keptTokens(last) / counted);
  }

  /** The exchanges that are sent, as messages. */
  get history() {
    return this.#exchanges.slice(this.leftOut).flatMap(({ question, answer }) => [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ]);
  }

  /** Leaves out more after a refusal that counted `promptTokens`; false where nothing is left to leave out. */
  refused(promptTokens) {
    if (this.leftOut === this.#exchanges.length) return false;
    const chars = this.#charsFrom(this.leftOut) + this.#chars;
    this.leftOut += 1;
    if (promptTokens > 0 && Number.isFinite(this.#room)) this.#shrink(promptTokens / chars);
    // Without a count, by halves: each try costs the server the encoding of all that is sent.
    else this.leftOut += Math.floor((this.#exchanges.length - this.leftOut) / 2);
    return true;
  }

  #shrink(tokensPerChar) {
    let chars = this.#charsFrom(this.leftOut) + this.#chars;
    // Not so for an unknown context: nothing is more than NaN.
    while (this.leftOut < this.#exchanges.length && chars * tokensPerChar > this.#room) {
      chars -= charsOf(this.#exchanges[this.leftOut]);
      this.leftOut += 1;
    }
  }

  #charsFrom(start) {
    return this.#exchanges.slice(start).reduce((sum, exchange) => sum + charsOf(exchange), 0);
  }
}

const charsOf = ({ question, answer }) => question.length + answer.length;

// Thoughts cost tokens once: they are not sent again.
function keptTokens({ usage, content }) {
  const kept = withoutThinking(content).length / Math.max(content.length, 1);
  return (usage.prompt_tokens ?? 0) + (usage.completion_tokens ?? 0) * kept;
}
