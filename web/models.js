// models.js: the models the server has: which one is chosen, what state each is in, and the dialog that shows them.

import { listModels, loadModel, modelStatus, unloadModel } from "./api.js";
import { byId, el, openDialog, wireDialog } from "./dom.js";
import { load, save } from "./store.js";

const GROUPS = ["Pretrained", "SFT", "RL", "Unknown"];
const POLL_MS = 400;
const RETRY_MS = 3000;

const STATUS_WORDS = { not_loaded: "Not loaded", loading: "Loading", loaded: "Loaded", error: "Loading failed", unusable: "Cannot be used" };

/** The models and their picker. `onChange` runs whenever something about them is new. */
export class Models {
  #polling = new Set();
  #failure = "";
  #unreachable = false;
  // By name: the parts of a row that change while a model loads.
  #shown = new Map();

  constructor({ onChange, say }) {
    this.onChange = onChange;
    this.say = say;
    this.entries = new Map();
    this.selected = load("model", null);
    this.dialog = byId("models");
    this.chip = byId("model-chip");
    wireDialog(this.dialog);
    this.chip.addEventListener("click", () => this.open());
  }

  /** The chosen model's entry, if the server still has it. */
  get current() {
    return this.entries.get(this.selected);
  }

  open() {
    openDialog(this.dialog);
    this.refresh();
  }

  /** Reads the list anew. */
  async refresh() {
    try {
      const listed = Object.entries(await listModels());
      this.entries = new Map(listed.map(([name, entry]) => [name, { ...entry, name }]));
      this.#failure = "";
      this.#choose();
      for (const entry of this.entries.values()) if (entry.status === "loading") this.poll(entry.name);
    } catch (error) {
      this.#failure = error.message;
      this.#unreachable = error.status === 0;
      // A server that is still starting is found without a reload.
      if (error.status === 0 && this.entries.size === 0) setTimeout(() => this.refresh(), RETRY_MS);
    }
    this.#draw();
  }

  #choose() {
    if (this.current && !unusable(this.current)) return;
    const entries = [...this.entries.values()];
    const chosen = entries.find((entry) => entry.default && !unusable(entry)) ?? entries.find((entry) => !unusable(entry)) ?? entries.find((entry) => entry.default);
    this.selected = chosen?.name ?? null;
  }

  /** Chooses a model and starts loading it. */
  async select(name) {
    this.selected = name;
    save("model", name);
    this.#draw();
    if (this.current?.status !== "loaded") await this.load(name);
  }

  async load(name) {
    await this.#change(name, async () => this.#merge(name, await loadModel(name)));
    if (this.entries.get(name)?.status === "loading") this.poll(name);
  }

  async unload(name) {
    await this.#change(name, async () => {
      const answer = await unloadModel(name);
      if (answer.success === false) this.say(answer.message ?? `Model ${name} is not loaded`);
      this.#merge(name, await modelStatus(name));
    });
  }

  // What fails here is told at the model and, where the dialog is closed, in a notice.
  async #change(name, action) {
    this.#merge(name, { problem: "" });
    try {
      await action();
    } catch (error) {
      this.#merge(name, { problem: error.message });
      if (!this.dialog.open) this.say(error.message);
    }
  }

  /** Follows a model's loading until it ends, once at a time. */
  async poll(name) {
    if (this.#polling.has(name)) return;
    this.#polling.add(name);
    let going = true;
    while (going) {
      try {
        this.#merge(name, await modelStatus(name));
        going = this.entries.get(name)?.status === "loading";
      } catch (error) {
        // A dropped connection may come back; an answer that says no will not change.
        going = error.status === 0 && this.entries.get(name)?.status === "loading";
      }
      if (going) await new Promise((done) => setTimeout(done, POLL_MS));
    }
    this.#polling.delete(name);
  }

  #merge(name, changes) {
    const entry = this.entries.get(name);
    if (!entry) return;
    const goesOn = entry.status === "loading" && changes.status === "loading";
    if (changes.status && changes.status !== "error") entry.error = undefined;
    Object.assign(entry, changes, { name });
    if (goesOn) this.#drawProgress(entry);
    else this.#draw();
  }

  #draw() {
    this.#drawChip();
    if (this.dialog.open) this.#drawList();
    this.onChange();
  }

  #drawChip() {
    const entry = this.current;
    const status = this.#failure ? "error" : (entry?.status ?? "not_loaded");
    const loading = status === "loading";
    const words = this.#failure ? STATUS_WORDS.unusable : stateOf(entry ?? { status });
    byId("model-name").textContent = entry?.name ?? (this.#failure && this.#unreachable ? "No connection" : "No model");
    byId("model-state").textContent = loading ? percent(entry) : words;
    this.chip.dataset.status = status;
    this.chip.setAttribute("aria-label", `Model: ${entry?.name ?? "none"}, ${words}. Choose a model`);
    const bar = byId("model-progress");
    bar.hidden = !loading;
    if (loading) setProgress(bar, entry);
  }

  // In place: a list drawn anew several times a second would take buttons away from under the pointer.
  #drawProgress(entry) {
    this.#drawChip();
    const shown = this.#shown.get(entry.name);
    if (!shown?.bar) return this.#draw();
    shown.state.textContent = percent(entry);
    return setProgress(shown.bar, entry);
  }

  #drawList() {
    const focused = this.dialog.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    const list = byId("model-list");
    list.replaceChildren(...(this.#failure ? [this.#failureRow()] : []), ...this.#groups());
    if (this.entries.size === 0 && !this.#failure) {
      list.append(el("p", { class: "empty", text: "The server has no models. Put a checkpoint into its checkpoint folder and open this list again." }));
    }
    // The list is drawn anew on each step of a load; the keyboard must not lose its place.
    if (focused) list.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  #failureRow() {
    const retry = el("button", { type: "button", class: "small-button", text: "Try again", on: { click: () => this.refresh() } });
    return el("div", { class: "problem", role: "alert" }, el("p", { text: this.#failure }), retry);
  }

  #groups() {
    const kindOf = (entry) => (GROUPS.includes(entry.type) ? entry.type : "Unknown");
    return GROUPS.flatMap((kind) => {
      const entries = [...this.entries.values()].filter((entry) => kindOf(entry) === kind);
      if (entries.length === 0) return [];
      const rows = entries.sort((a, b) => a.name.localeCompare(b.name)).map((entry) => this.#row(entry));
      return [el("section", { "aria-label": kind }, el("h3", { text: kind }), el("ul", {}, ...rows))];
    });
  }

  #row(entry) {
    const { name } = entry;
    const chosen = name === this.selected;
    const { status } = entry;
    const pick = el(
      "button",
      { type: "button", class: "pick", disabled: unusable(entry), "aria-pressed": String(chosen), "data-focus": `pick ${name}`, on: { click: () => this.#pick(name) } },
      el("span", { class: "name", text: name }),
      el("span", { class: "facts", text: factsOf(entry) }),
    );
    const state = el("span", { class: "state", "data-status": status, text: status === "loading" ? percent(entry) : stateOf(entry) });
    const row = el("li", { class: chosen ? "model chosen" : "model" }, pick, el("div", { class: "side" }, state, this.#unloadButton(entry)));
    const bar = status === "loading" ? setProgress(el("progress", { "aria-label": `Loading ${name}` }), entry) : null;
    if (bar) row.append(bar);
    this.#shown.set(name, { state, bar });
    const trouble = entry.problem || entry.error;
    if (trouble) row.append(el("p", { class: "trouble", text: trouble }));
    return row;
  }

  #unloadButton({ name, status }) {
    if (status !== "loaded") return null;
    const on = { click: () => this.unload(name) };
    return el("button", { type: "button", class: "small-button", text: "Unload", "aria-label": `Unload ${name}`, "data-focus": `unload ${name}`, on });
  }

  #pick(name) {
    this.select(name);
    // What is loaded can be used at once; otherwise the dialog stays open to show how the loading goes.
    if (this.current?.status === "loaded") this.dialog.close();
  }
}

// Listed although it cannot be read: shown with its reason, not offered. A failed load may be tried again.
const unusable = (entry) => entry.usable === false;

const stateOf = (entry) => STATUS_WORDS[unusable(entry) ? "unusable" : entry.status];

function factsOf(entry) {
  const parts = [];
  if (Number.isFinite(entry.parameters) && entry.parameters > 0) parts.push(`${short(entry.parameters)} parameters`);
  if (Number.isFinite(entry.size_mb)) parts.push(size(entry.size_mb));
  if (entry.status === "loaded" && Number.isFinite(entry.bytes)) parts.push(`${size(entry.bytes / 2 ** 20)} in memory`);
  if (entry.status === "loaded" && entry.device) parts.push(`on ${entry.device}`);
  if (entry.dtype) parts.push(entry.dtype);
  if (Number.isFinite(entry.context_length)) parts.push(`context ${entry.context_length.toLocaleString("en")}`);
  if (entry.format) parts.push(entry.format);
  if (entry.modified) parts.push(String(entry.modified).slice(0, 16));
  return parts.join(" · ");
}

function short(count) {
  for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (count >= unit) return `${(count / unit).toPrecision(3)}${name}`;
  }
  return String(count);
}

const size = (mb) => (mb >= 1024 ? `${(mb / 1024).toFixed(1)} GB` : `${mb.toFixed(mb < 10 ? 1 : 0)} MB`);

const percent = (entry) => (Number.isFinite(entry.progress) ? `Loading ${Math.floor(entry.progress * 100)} %` : "Loading");

function setProgress(bar, { progress }) {
  bar.max = 1;
  // Without a number the bar only says that something goes on.
  if (Number.isFinite(progress)) bar.value = progress;
  else bar.removeAttribute("value");
  return bar;
}
