// chat.js: the conversation: its turns in order, and the one answer that may be growing.

import { clearChat } from "./api.js";
import { Past, TOO_LONG, picked, tokensOf } from "./context.js";
import { byId } from "./dom.js";
import { Follower } from "./follow.js";
import { Generation } from "./generation.js";
import { AnswerView, questionView } from "./message.js";
import { requestBody } from "./settings.js";
import { forgetChat, newChat, saveChat, save } from "./store.js";

const SAVE_MS = 1000;

/** The conversation on the page. `onChange` runs when it starts, ends, grows or empties. */
export class Chat {
  #generation = null;
  #saving = 0;
  #editing = -1;
  #cleared = new WeakSet();

  constructor({ models, settings, say, announce, onChange, onEdit }) {
    Object.assign(this, { models, settings, say, announce, onChange, onEdit });
    this.log = byId("log");
    this.follower = new Follower(byId("scroller"), this.log);
    this.warned = false;
    this.chat = newChat();
  }

  get busy() {
    return this.#generation !== null;
  }

  get empty() {
    return this.chat.messages.length === 0;
  }

  /** The tokens of the last answer and all that was sent before it. One that failed uncounted changes nothing. */
  get tokens() {
    const counts = this.chat.messages.map((message) => tokensOf(picked(message)));
    return counts.findLast((tokens) => tokens > 0) ?? 0;
  }

  /** Shows a chat in place of the present one. */
  open(chat) {
    this.stop();
    this.flush();
    this.chat = chat;
    this.endEdit();
    save("open", chat.id);
    this.#redraw();
  }

  #redraw() {
    this.log.replaceChildren(...this.chat.messages.map((message, i) => this.#draw(message, i)));
    this.onChange();
    // The empty page is read from its top.
    if (this.empty) this.follower.toStart();
    else this.follower.toEnd();
  }

  #draw(message, index) {
    if (message.role === "user") return questionView(message, { onEdit: () => this.edit(message) });
    const view = this.#answerView(message);
    view.draw();
    view.node.dataset.index = index;
    return view.node;
  }

  #answerView(message) {
    const onEdit = () => this.edit(this.chat.messages[this.chat.messages.indexOf(message) - 1]);
    return new AnswerView(message, { onAgain: () => this.again(message), onPick: () => this.#keep(), onEdit });
  }

  /** Asks. While an earlier question is being edited, it is replaced with all that followed it. */
  send(text) {
    if (this.busy || text.trim() === "") return;
    if (this.#editing >= 0) {
      this.chat.messages.length = this.#editing;
      this.endEdit();
      this.#redraw();
    }
    const question = { role: "user", content: text };
    this.chat.messages.push(question);
    this.log.append(questionView(question, { onEdit: () => this.edit(question) }));
    const answer = { role: "assistant", variants: [], picked: -1 };
    this.chat.messages.push(answer);
    const view = this.#answerView(answer);
    this.log.append(view.node);
    this.#generate(answer, view);
  }

  /** Answers a question once more. The earlier answer stays as a variant unless it failed with nothing. */
  again(message) {
    const at = this.chat.messages.indexOf(message);
    if (this.busy || at < 1) return;
    this.endEdit();
    // Only the last answer can change: later turns were said in reply to it.
    this.chat.messages.length = at + 1;
    while (this.log.children.length > at) this.log.lastElementChild.remove();
    message.variants = message.variants.filter((variant) => variant.content !== "");
    const view = this.#answerView(message);
    this.log.append(view.node);
    this.#generate(message, view);
  }

  async #generate(answer, view) {
    const at = this.chat.messages.indexOf(answer);
    const variant = { content: "", finish: "cancelled", model: this.models.selected ?? undefined };
    answer.variants.push(variant);
    answer.picked = answer.variants.length - 1;
    const chat = this.chat;
    const past = this.#pastOf(at - 1);
    view.begin();
    this.follower.toEnd();
    this.announce.start();
    let outcome;
    do {
      outcome = await this.#run(past, chat.messages[at - 1].content, variant, view);
      // A conversation outgrows its model: it goes on without its beginning.
    } while (outcome.code === TOO_LONG && !this.#generation.stopped && past.refused(outcome.usage?.prompt_tokens));
    Object.assign(variant, endOf(outcome, this.#context));
    if (!variant.error && past.leftOut > 0) variant.leftOut = past.leftOut;
    this.#end(this.#generation, chat, view);
  }

  #run(past, message, variant, view) {
    const model = this.models.selected ?? "";
    const body = requestBody(this.settings.values, { model, message, history: past.history });
    const generation = new Generation();
    this.#generation = generation;
    this.onChange();
    return generation.run(body, {
      onText: (text) => this.#grow(variant, view, text),
      onWaiting: (comment) => this.#waiting(comment, variant, view),
    });
  }

  get #context() {
    return this.models.current?.context_length ?? Number.NaN;
  }

  // What goes along with the question at this place.
  #pastOf(at) {
    const { messages } = this.chat;
    const { system, max_new_tokens: answer } = this.settings.values;
    const model = this.models.selected ?? undefined;
    return new Past(messages.slice(0, at), { question: messages[at].content, system, model, context: this.#context, answer });
  }

  #grow(variant, view, text) {
    variant.content += text;
    this.announce.push(text);
    view.push(text);
    this.#keepSoon();
  }

  #waiting(comment, variant, view) {
    if (comment !== "loading" || variant.content !== "") return;
    view.say(`Loading ${variant.model ?? "the model"}…`);
    if (variant.model) this.models.poll(variant.model);
  }

  #end(generation, chat, view) {
    view.end();
    const { error, finish } = view.variant;
    this.announce.end(error ?? (finish === "cancelled" ? "Stopped." : ""));
    if (this.#generation === generation) this.#generation = null;
    this.models.refresh();
    this.#keep(chat);
    this.onChange();
  }

  /** Ends the growing answer, if there is one. */
  stop() {
    this.#generation?.stop();
  }

  /** Puts a question back under the cursor; nothing is lost until it is sent. */
  edit(message) {
    if (this.busy) return;
    this.#editing = this.chat.messages.indexOf(message);
    this.onEdit(message.content);
  }

  endEdit() {
    if (this.#editing < 0) return;
    this.#editing = -1;
    this.onEdit(null);
  }

  /** Empties the chat; the notice takes it back. */
  clear() {
    const before = this.chat;
    this.stop();
    clearTimeout(this.#saving);
    this.#saving = 0;
    // A chat of its own: taking the old one back must not cost what was said since.
    this.#cleared.add(before);
    forgetChat(before.id);
    this.open(newChat());
    // The history is ours: whether the server heard of it changes nothing for the user.
    clearChat().catch(() => {});
    if (before.messages.length === 0) return;
    this.say("Chat cleared.", { label: "Undo", run: () => this.#restore(before) });
  }

  #restore(chat) {
    this.#cleared.delete(chat);
    saveChat(chat);
    this.open(chat);
  }

  #keep(chat = this.chat) {
    // An old answer may still end into a chat that was cleared, or that was opened anew: neither must be overwritten.
    if (this.#cleared.has(chat) || (chat !== this.chat && this.chat.id === chat.id)) return;
    chat.updated = Date.now();
    if (saveChat(chat) || this.warned) return;
    this.warned = true;
    this.say("This browser's storage is full or switched off: chats will be gone when the page is closed. Export what you want to keep.");
  }

  #keepSoon() {
    if (this.#saving !== 0) return;
    this.#saving = setTimeout(() => this.flush(), SAVE_MS);
  }

  /** Stores what is not stored yet. */
  flush() {
    if (this.#saving === 0) return;
    clearTimeout(this.#saving);
    this.#saving = 0;
    this.#keep();
  }
}

function endOf({ finish, usage, timings, error, code, status, retryAfterS }, context) {
  const full = finish === "length" && tokensOf({ usage }) >= context;
  if (!error) return { finish: full ? "full" : finish, usage, timings };
  return { finish, usage, timings, error: retryAfterS > 0 ? `${sentence(error)} Try again in ${retryAfterS} s.` : error, code, status };
}

// The server's words end without a full stop.
const sentence = (words) => (/[.!?…]$/.test(words.trimEnd()) ? words.trimEnd() : `${words.trimEnd()}.`);
