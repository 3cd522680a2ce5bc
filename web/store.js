// store.js: what the browser keeps for the user. Each chat has a key of its own, so two tabs never overwrite
// each other's, and nothing here throws: with storage blocked or full the page works on and says so.

const PREFIX = "hadal.";
const CHAT = "chat.";

// Holds what the browser would not: storage may be switched off, or full.
const memory = new Map();

/** The value under `key`, or `fallback` if there is none that can be read. */
export function load(key, fallback) {
  if (memory.has(key)) return structuredClone(memory.get(key));
  try {
    const text = localStorage.getItem(PREFIX + key);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** Keeps `value`; false if it will be gone after the page is closed. */
export function save(key, value) {
  try {
    localStorage.setItem(PREFIX + key, JSON.stringify(value));
    memory.delete(key);
    return true;
  } catch {
    memory.set(key, structuredClone(value));
    return false;
  }
}

/** Forgets `key`. */
export function forget(key) {
  memory.delete(key);
  try {
    localStorage.removeItem(PREFIX + key);
  } catch {
    // Nothing was kept there.
  }
}

/** An empty chat. */
export const newChat = () => ({ id: newId(), updated: Date.now(), messages: [] });

// randomUUID is missing over plain HTTP from another machine.
function newId() {
  return crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
}

/** Keeps a chat; an empty one is not worth a key. */
export function saveChat(chat) {
  if (chat.messages.length === 0) {
    forget(CHAT + chat.id);
    return true;
  }
  return save(CHAT + chat.id, chat);
}

/** Forgets a chat. */
export const forgetChat = (id) => forget(CHAT + id);

/** The chat kept under `id`, or null. */
export const loadChat = (id) => readChat(load(CHAT + id, null));

/** All chats kept, the latest first. */
export function listChats() {
  const keys = new Set([...memory.keys()].filter((key) => key.startsWith(CHAT)));
  try {
    for (let i = 0; i < localStorage.length; i += 1) {
      const key = localStorage.key(i);
      if (key.startsWith(PREFIX + CHAT)) keys.add(key.slice(PREFIX.length));
    }
  } catch {
    // Storage is switched off: what is in memory is all there is.
  }
  const chats = [...keys].map((key) => readChat(load(key, null))).filter(Boolean);
  return chats.sort((a, b) => b.updated - a.updated);
}

/** A chat's name: the beginning of its first message. */
export function titleOf(chat) {
  const first = chat.messages.find((message) => message.role === "user")?.content ?? "";
  const line = first.trim().split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line || "Empty chat";
}

/** What was stored or imported as a chat, field by field; null if it is none. */
export function readChat(value) {
  if (typeof value !== "object" || value === null || !Array.isArray(value.messages)) return null;
  const messages = value.messages.map(readMessage);
  // The page relies on turns alternating; a question without its answer at the end is left out.
  if (messages.some((message, i) => message?.role !== (i % 2 === 0 ? "user" : "assistant"))) return null;
  if (messages.length % 2 === 1) messages.pop();
  const id = typeof value.id === "string" && value.id ? value.id : newId();
  const updated = Number.isFinite(value.updated) ? value.updated : Date.now();
  return { id, updated, messages };
}

function readMessage(value) {
  if (value?.role === "user" && typeof value.content === "string") return { role: "user", content: value.content };
  if (value?.role !== "assistant") return null;
  // Other programs export one plain `content`; ours has one variant for each time it was generated.
  const given = Array.isArray(value.variants) ? value.variants : [value];
  const variants = given.map(readVariant);
  if (variants.length === 0 || variants.includes(null)) return null;
  const picked = Number.isInteger(value.picked) ? value.picked : variants.length - 1;
  return { role: "assistant", variants, picked: Math.min(Math.max(picked, 0), variants.length - 1) };
}

function readVariant(value) {
  if (typeof value?.content !== "string") return null;
  const text = (field) => (typeof value[field] === "string" ? value[field] : undefined);
  const numbers = (field) => {
    const pairs = Object.entries(value[field] ?? {}).filter(([, n]) => Number.isFinite(n));
    return pairs.length > 0 ? Object.fromEntries(pairs) : undefined;
  };
  return {
    content: value.content,
    // A page closed in the middle of an answer leaves one without an end.
    finish: text("finish") ?? "cancelled",
    model: text("model"),
    error: text("error"),
    code: text("code"),
    leftOut: Number.isInteger(value.leftOut) && value.leftOut > 0 ? value.leftOut : undefined,
    usage: numbers("usage"),
    timings: numbers("timings"),
  };
}
