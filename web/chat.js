// chat.js: the conversation: its turns in order, and the one answer that may be growing.

import { clearChat } from "./api.js";
import { byId, el } from "./dom.js";
import { Follower } from "./follow.js";
import { Generation } from "./generation.js";
import { AnswerView, questionView } from "./message.js";
import { requestBody } from "./settings.js";
import { newChat, saveChat, save } from "./store.js";
import { withoutThinking } from "./thinking.js";

const SAVE_MS = 1000;

/** The conversation on the page. `onChange` runs when it starts, ends, grows or empties. */
export class Chat {
  #generation = null;
  #saving = 0;
  #editing = -1;

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

  /** The tokens of the last answer and all before it, as the server counted them. */
  get tokens() {
    const usage = picked(this.chat.messages.at(-1))?.usage;
    return usage?.total_tokens ?? (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0);
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
    return new AnswerView(message, { onAgain: () => this.again(message), onPick: () => this.#keep() });
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
    const body = requestBody(this.settings.values, {
      model: this.models.selected ?? "",
      message: this.chat.messages[at - 1].content,
      history: historyOf(this.chat.messages.slice(0, at - 1)),
    });
    const generation = new Generation(body);
    this.#generation = generation;
    view.begin();
    this.follower.toEnd();
    this.onChange();
    this.announce.start();
    const chat = this.chat;
    const outcome = await generation.run(body, {
      onText: (text) => this.#grow(variant, view, text),
      onWaiting: (comment) => this.#waiting(comment, variant, view),
    });
    Object.assign(variant, endOf(outcome));
    this.#end(generation, chat, view);
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
    const before = { ...this.chat, messages: this.chat.messages.slice() };
    this.stop();
    clearTimeout(this.#saving);
    this.#saving = 0;
    this.chat = { ...before, messages: [] };
    this.endEdit();
    this.#keep();
    this.#redraw();
    // The history is ours: whether the server heard of it changes nothing for the user.
    clearChat().catch(() => {});
    if (before.messages.length === 0) return;
    this.say("Chat cleared.", { label: "Undo", run: () => this.#restore(before) });
  }

  #restore(chat) {
    saveChat(chat);
    this.open(chat);
  }

  #keep(chat = this.chat) {
    chat.updated = Date.now();
    // A cleared chat that an old answer still ends into must not come back.
    if (chat !== this.chat && this.chat.id === chat.id) return;
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

const picked = (message) => message?.variants?.[message.picked];

// The turns a model is reminded of: a question whose answer never came would only confuse it.
function historyOf(messages) {
  const history = [];
  for (let i = 0; i + 1 < messages.length; i += 2) {
    const answer = withoutThinking(picked(messages[i + 1])?.content ?? "");
    if (answer === "") continue;
    history.push({ role: "user", content: messages[i].content }, { role: "assistant", content: answer });
  }
  return history;
}

function endOf({ finish, usage, timings, error, status, retryAfterS }) {
  if (!error) return { finish, usage, timings };
  const wait = retryAfterS > 0 ? ` Try again in ${retryAfterS} s.` : "";
  return { finish, usage, timings, error: error + wait, status };
}
