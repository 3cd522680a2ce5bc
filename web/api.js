// api.js: the page's calls to the server, and every failure as a sentence a person can act on.

import { load } from "./store.js";

const UNREACHABLE = "The server cannot be reached. Check that hadal is running and that you are connected, then try again.";

// Said only where an answer brings no sentence of its own, as from a proxy in between.
const BY_STATUS = {
  401: "The server asks for an API key. Enter it in the settings.",
  403: "The server refused this request.",
  404: "The server does not know this model or address.",
  408: "The request took too long to arrive. Try again.",
  413: "The conversation is too long to send. Start a new chat.",
  429: "The server is busy. Try again in a moment.",
  502: "The proxy in front of the server cannot reach it. Try again in a moment.",
  503: "The server cannot take this now. Try again in a moment.",
  504: "The server took too long to answer. Try again.",
};

/** A failure to show: `message` is the sentence; `status` is 0 where no answer came. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", retryAfterS = 0 } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/** The failure an answer tells of. Section-1 errors are strings; a gateway may send OpenAI's object. */
export async function failure(response) {
  let body = null;
  try {
    body = JSON.parse(await response.text());
  } catch {
    // Not JSON, as from a proxy: the status has to do.
  }
  const said = typeof body?.error === "string" ? body.error : body?.error?.message;
  const words = said || BY_STATUS[response.status] || `The server answered with status ${response.status}.`;
  const seconds = Number(response.headers.get("retry-after"));
  return new ApiError(String(words), {
    status: response.status,
    code: String(body?.code ?? body?.error?.code ?? ""),
    retryAfterS: Number.isFinite(seconds) && seconds > 0 ? seconds : 0,
  });
}

/** Sends a request; gives the response if it is a success, throws `ApiError` if it is not. */
export async function call(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const key = load("key", "");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    // Relative to the page, so that a proxy may serve all of it under a folder.
    response = await fetch(new URL(path, document.baseURI), { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(UNREACHABLE);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function json(path, options) {
  const response = await call(path, options);
  try {
    return await response.json();
  } catch {
    throw new ApiError("The server's answer cannot be read. Is this address hadal's own?", { status: response.status });
  }
}

// A name travels as one segment, its slashes encoded.
const ofModel = (name, verb) => `api/models/${encodeURIComponent(name)}/${verb}`;

/** The listing: an object from name to entry. */
export const listModels = async () => (await json("api/models")).models ?? {};

/** A model's status body. */
export const modelStatus = (name) => json(ofModel(name, "status"));

/** Starts loading; answers with the status body. */
export const loadModel = (name) => json(ofModel(name, "load"), { method: "POST" });

/** Unloads; answers `{success, message}`. */
export const unloadModel = (name) => json(ofModel(name, "unload"), { method: "POST" });

/** Tells the server that this chat starts anew. */
export const clearChat = () => json("api/chat/clear", { method: "POST", body: "{}" });

/** Ends a generation. */
export const cancelTask = (task) =>
  json("api/generate/cancel", { method: "POST", body: JSON.stringify({ task_id: task }) });
