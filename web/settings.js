// settings.js: the sampling settings: their bounds, their form and how they go on the wire.

import { byId, el, openDialog, wireDialog } from "./dom.js";
import { load, save } from "./store.js";

// Bounds and defaults are the server's; `slider` is the part of the range that people use.
const FIELDS = [
  { key: "temperature", label: "Temperature", fallback: 0.7, min: 0, max: 5, step: 0.05, slider: [0, 2], hint: "0 always takes the likeliest token." },
  { key: "top_p", label: "Top-p", fallback: 0.9, min: 0.01, max: 1, step: 0.01, slider: [0.01, 1], hint: "Keeps the likeliest tokens up to this share." },
  { key: "top_k", label: "Top-k", fallback: 50, min: 0, max: 1_000_000, step: 1, slider: [0, 200], hint: "Keeps this many tokens; 0 keeps all." },
  { key: "min_p", label: "Min-p", fallback: 0, min: 0, max: 1, step: 0.01, slider: [0, 1], hint: "Drops tokens below this share of the likeliest." },
  { key: "repetition_penalty", label: "Repetition penalty", fallback: 1.1, min: 0.01, max: 10, step: 0.01, slider: [0.5, 2], hint: "Over 1 discourages words already used." },
  { key: "max_new_tokens", label: "Max tokens", fallback: 512, min: 1, max: 1_000_000, step: 1, hint: "How long an answer may get." },
];

const PRESETS = {
  Precise: { temperature: 0, top_p: 1, top_k: 0, min_p: 0 },
  Balanced: { temperature: 0.7, top_p: 0.9, top_k: 50, min_p: 0 },
  Creative: { temperature: 1.1, top_p: 0.95, top_k: 0, min_p: 0.05 },
};

const SEED_MAX = 2n ** 64n - 1n;
const STOPS_MAX = 16;

const DEFAULTS = { ...Object.fromEntries(FIELDS.map(({ key, fallback }) => [key, fallback])), seed: "", system: "", stop: "" };

/** Stored settings with everything that is missing or no longer valid replaced by its default. */
export function readSettings(stored) {
  const settings = { ...DEFAULTS };
  for (const field of FIELDS) {
    if (problemOf(field, stored?.[field.key]) === "") settings[field.key] = stored[field.key];
  }
  for (const key of ["seed", "system", "stop"]) {
    if (typeof stored?.[key] === "string") settings[key] = stored[key];
  }
  if (seedProblem(settings.seed)) settings.seed = "";
  return settings;
}

function problemOf({ min, max, step }, value) {
  const whole = step === 1;
  if (typeof value !== "number" || !Number.isFinite(value) || value < min || value > max || (whole && !Number.isInteger(value))) {
    return `Enter a ${whole ? "whole " : ""}number from ${min} to ${max}.`;
  }
  return "";
}

function seedProblem(text) {
  if (text === "" || (/^\d{1,20}$/.test(text) && BigInt(text) <= SEED_MAX)) return "";
  return `Enter a whole number from 0 to ${SEED_MAX}, or nothing for a new one each time.`;
}

const stopsOf = (text) => text.split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n"));

/** The body of a generate request, as JSON text. */
export function requestBody(settings, { model, message, history }) {
  const system = settings.system.trim();
  const body = { model, message, history: system ? [{ role: "system", content: system }, ...history] : history };
  for (const { key } of FIELDS) body[key] = settings[key];
  const stop = stopsOf(settings.stop);
  if (stop.length > 0) body.stop = stop;
  const text = JSON.stringify(body);
  // A seed has 64 bits, a JavaScript number 53: it goes in as the digits that were typed.
  return settings.seed === "" ? text : `${text.slice(0, -1)},"seed":${settings.seed.replace(/^0+(?=\d)/, "")}}`;
}

/** The settings and their dialog. */
export class Settings {
  constructor() {
    this.values = readSettings(load("settings", {}));
    this.dialog = byId("settings");
    this.form = byId("settings-fields");
    wireDialog(this.dialog);
    this.#draw();
  }

  open() {
    openDialog(this.dialog);
  }

  #set(changes) {
    Object.assign(this.values, changes);
    save("settings", this.values);
    this.#markPreset();
  }

  #draw() {
    this.presets = Object.entries(PRESETS).map(([name, values]) => this.#preset(name, values));
    this.form.replaceChildren(
      el("div", { class: "presets", role: "group", "aria-label": "Presets" }, ...this.presets),
      this.#longField("system", "System prompt", "Said to the model before the conversation.", () => ""),
      ...FIELDS.map((field) => this.#numberField(field)),
      this.#seedField(),
      this.#longField("stop", "Stop texts", "One a line; an answer ends before any of them. \\n is a line break.", stopProblem),
      this.#keyField(),
      el("button", { type: "button", class: "small-button reset", text: "Reset to defaults", on: { click: () => this.#reset(DEFAULTS) } }),
    );
    this.#markPreset();
  }

  #reset(changes) {
    this.#set(changes);
    this.#draw();
  }

  #preset(name, values) {
    return el("button", { type: "button", text: name, on: { click: () => this.#apply(name, values) } });
  }

  #apply(name, values) {
    this.#reset(values);
    this.presets[Object.keys(PRESETS).indexOf(name)].focus();
  }

  #markPreset() {
    Object.values(PRESETS).forEach((values, i) => {
      const same = Object.entries(values).every(([key, value]) => this.values[key] === value);
      this.presets[i].setAttribute("aria-pressed", String(same));
    });
  }

  #numberField(field) {
    const { key, label, min, max, step, slider } = field;
    const input = el("input", { id: `set-${key}`, type: "number", min, max, step: step === 1 ? 1 : "any", inputmode: "decimal" });
    const range = slider && el("input", { type: "range", min: slider[0], max: slider[1], step, "aria-label": `${label} slider` });
    const show = () => {
      input.value = this.values[key];
      if (range) range.value = this.values[key];
    };
    show();
    range?.addEventListener("input", () => {
      this.#set({ [key]: Number(range.value) });
      input.value = range.value;
      input.dispatchEvent(new Event("input"));
    });
    const read = () => (input.value.trim() === "" ? Number.NaN : Number(input.value));
    const keep = () => {
      this.#set({ [key]: read() });
      if (range) range.value = input.value;
    };
    return fieldset(field, input, () => problemOf(field, read()), keep, range);
  }

  #seedField() {
    const input = el("input", { id: "set-seed", type: "text", inputmode: "numeric", autocomplete: "off", placeholder: "random" });
    input.value = this.values.seed;
    const field = { key: "seed", label: "Seed", hint: "The same seed and settings give the same answer." };
    return fieldset(field, input, () => seedProblem(input.value.trim()), () => this.#set({ seed: input.value.trim() }));
  }

  #longField(key, label, hint, problem) {
    const input = el("textarea", { id: `set-${key}`, rows: 3, class: "long", spellcheck: key === "system" ? "true" : "false" });
    input.value = this.values[key];
    return fieldset({ key, label, hint }, input, () => problem(input.value), () => this.#set({ [key]: input.value }));
  }

  #keyField() {
    const input = el("input", { id: "set-key", type: "password", autocomplete: "off", class: "long" });
    input.value = load("key", "");
    const field = { key: "key", label: "API key", hint: "Only where the server asks for one. Kept in this browser." };
    return fieldset(field, input, () => "", () => save("key", input.value.trim()));
  }
}

function stopProblem(text) {
  return stopsOf(text).length > STOPS_MAX ? `At most ${STOPS_MAX} stop texts.` : "";
}

// A labelled row. A value with a problem is told and not kept: the last good one stays in force.
function fieldset({ key, label, hint }, input, problem, keep, range) {
  const help = el("p", { class: "hint", id: `hint-${key}`, text: hint });
  input.setAttribute("aria-describedby", help.id);
  input.addEventListener("input", () => {
    const wrong = problem();
    help.textContent = wrong || hint;
    help.classList.toggle("wrong", wrong !== "");
    input.setAttribute("aria-invalid", String(wrong !== ""));
    if (wrong === "") keep();
  });
  return el("div", { class: "field" }, el("label", { for: input.id, text: label }), input, range, help);
}
