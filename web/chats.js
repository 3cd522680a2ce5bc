// chats.js: the drawer of earlier chats: open, delete, export, import.

import { byId, el, iconButton, openDialog, wireDialog } from "./dom.js";
import { forgetChat, listChats, loadChat, readChat, saveChat, titleOf } from "./store.js";

const IMPORT_BYTES_MAX = 20 * 1024 * 1024;

/** The drawer. It asks `chat` to open what was chosen. */
export class Chats {
  constructor({ chat, say }) {
    this.chat = chat;
    this.say = say;
    this.dialog = byId("chats");
    this.file = byId("import-file");
    wireDialog(this.dialog);
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => this.file.click());
    this.file.addEventListener("change", () => this.#import());
  }

  open() {
    this.chat.flush();
    openDialog(this.dialog);
    this.#draw();
  }

  #draw() {
    const rows = listChats().map((chat) => this.#row(chat));
    const none = el("p", { class: "empty", text: "Chats are kept in this browser and will be listed here." });
    byId("chat-list").replaceChildren(rows.length > 0 ? el("ul", {}, ...rows) : none);
  }

  #row(chat) {
    const title = titleOf(chat);
    const current = chat.id === this.chat.chat.id;
    const open = () => {
      if (!current) this.chat.open(loadChat(chat.id) ?? chat);
      this.dialog.close();
    };
    const button = el(
      "button",
      { type: "button", class: "pick", "aria-current": current ? "true" : undefined, on: { click: open } },
      el("span", { class: "name", text: title }),
      el("span", { class: "facts", text: new Date(chat.updated).toLocaleString() }),
    );
    return el("li", { class: current ? "model chosen" : "model" }, button, iconButton("trash", `Delete “${title}”`, () => this.#delete(chat)));
  }

  #delete(chat) {
    if (chat.id === this.chat.chat.id) this.chat.clear();
    else {
      forgetChat(chat.id);
      this.say("Chat deleted.", { label: "Undo", run: () => saveChat(chat) && this.#draw() });
    }
    this.#draw();
  }

  #export() {
    const { chat, models, settings } = this.chat;
    const { seed, system, stop, ...numbers } = settings.values;
    const file = {
      format: "hadal-chat",
      version: 1,
      exported: new Date().toISOString(),
      model: models.selected,
      settings: { ...numbers, seed, system, stop },
      ...chat,
    };
    const url = URL.createObjectURL(new Blob([JSON.stringify(file, null, 2)], { type: "application/json" }));
    el("a", { href: url, download: `${fileName(titleOf(chat))}.json` }).click();
    // The download has taken its own hold by the next turn of the event loop.
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async #import() {
    const [file] = this.file.files;
    this.file.value = "";
    if (!file) return;
    try {
      if (file.size > IMPORT_BYTES_MAX) throw new Error("too large");
      const chat = readChat(JSON.parse(await file.text()));
      if (!chat || chat.messages.length === 0) throw new Error("no chat");
      // A chat of this name may be here already, and may have grown since.
      if (loadChat(chat.id)) chat.id = `${chat.id}-${Date.now()}`;
      saveChat(chat);
      this.chat.open(chat);
      this.dialog.close();
    } catch {
      this.say(`${file.name} is not a chat that this page can read.`);
    }
  }
}

const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").toLowerCase() || "chat";
