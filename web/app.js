// app.js: the page's beginning: makes the parts, and joins them to the buttons and keys.

import { Announcer } from "./announce.js";
import { Chat } from "./chat.js";
import { Chats } from "./chats.js";
import { byId, el, icon } from "./dom.js";
import { Models } from "./models.js";
import { Settings } from "./settings.js";
import { listChats, load, loadChat, newChat, save } from "./store.js";

const SUGGESTIONS = [
  "Who are you?",
  "What is the capital of Japan?",
  "Tell me a story about a fox and a lamp.",
  "What is 7 plus 5?",
  "Count from 3 to 9.",
  "What is the opposite of hot?",
];
const NOTICE_MS = 8000;

const input = byId("input");
const send = byId("send");
const notice = byId("notice");
let noticeTimer = 0;

// A short message at the page's foot, with at most one thing to do about it.
function say(text, action) {
  const parts = [el("span", { text })];
  if (action) {
    const run = () => {
      notice.replaceChildren();
      action.run();
    };
    parts.push(el("button", { type: "button", class: "small-button", text: action.label, on: { click: run } }));
  }
  // A modal dialog covers the rest of the page, so the notice has to stand inside it.
  (document.querySelector("dialog[open]") ?? document.body).append(notice);
  notice.replaceChildren(...parts);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => notice.replaceChildren(), NOTICE_MS);
}

const settings = new Settings();
const models = new Models({ onChange: update, say });
const chat = new Chat({ models, settings, say, announce: new Announcer(), onChange: update, onEdit: showEdit });
const chats = new Chats({ chat, say });

// Brings the controls in line with the state; cheap enough to run on every change.
function update() {
  byId("welcome").hidden = !chat.empty;
  byId("clear").disabled = chat.empty;
  byId("export").disabled = chat.empty;
  send.classList.toggle("stop", chat.busy);
  const label = chat.busy ? "Stop" : "Send";
  if (send.getAttribute("aria-label") !== label) {
    send.setAttribute("aria-label", label);
    send.title = chat.busy ? "Stop (Esc)" : "Send (Enter)";
    send.replaceChildren(icon(chat.busy ? "stop" : "send"));
  }
  send.disabled = !chat.busy && input.value.trim() === "";
  showGauge();
}

function showGauge() {
  const context = models.current?.context_length;
  const { tokens } = chat;
  const known = tokens > 0 && Number.isFinite(context);
  byId("gauge").textContent = known ? `${tokens.toLocaleString("en")} of ${context.toLocaleString("en")} tokens` : "";
  byId("gauge").classList.toggle("full", known && tokens > 0.9 * context);
}

function showEdit(text) {
  byId("editing").hidden = text === null;
  input.value = text ?? "";
  grow();
  update();
  if (text !== null) input.focus();
}

// The field is as high as its text; the style sheet sets how far that goes.
function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

function submit() {
  if (chat.busy || input.value.trim() === "") return;
  const text = input.value;
  input.value = "";
  grow();
  chat.send(text);
  byId("editing").hidden = true;
}

function keyInInput(event) {
  // While an input method composes a word, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  submit();
}

function keyOnPage(event) {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (chat.busy) chat.stop();
  else chat.endEdit();
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  save("theme", root.dataset.theme);
}

function startNew() {
  chat.open(newChat());
  input.focus();
}

for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("close", () => document.body.append(notice));
for (const node of document.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
byId("suggestions").append(
  ...SUGGESTIONS.map((text) => el("button", { type: "button", text, on: { click: () => chat.send(text) } })),
);
input.addEventListener("input", () => {
  grow();
  update();
});
input.addEventListener("keydown", keyInInput);
send.addEventListener("click", () => (chat.busy ? chat.stop() : submit()));
document.addEventListener("keydown", keyOnPage);
byId("open-chats").addEventListener("click", () => chats.open());
byId("open-settings").addEventListener("click", () => settings.open());
byId("new-chat").addEventListener("click", startNew);
byId("clear").addEventListener("click", () => chat.clear());
// An API key entered there may be what the list of models waited for.
byId("settings").addEventListener("close", () => models.refresh());
byId("theme").addEventListener("click", toggleTheme);
byId("end-edit").addEventListener("click", () => chat.endEdit());
byId("to-end").addEventListener("click", () => chat.follower.toEnd());
chat.follower.onMove = (far) => (byId("to-end").hidden = !far);
addEventListener("pagehide", () => {
  // Otherwise the browser's own hanging up would be kept as a failure of the server.
  chat.stop();
  chat.flush();
});

chat.open(loadChat(load("open", "")) ?? listChats()[0] ?? newChat());
models.refresh();
// On a touch screen a focused field would open the keyboard over the page.
if (matchMedia("(pointer: fine)").matches) input.focus();
