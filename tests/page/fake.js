// fake.js: a scripted server with the chat page's wire contract, for the states a real model cannot be asked to show.
//
// Every test scripts its own answers: `fake.answer = async (stream, body) => { stream.token("Hi"); stream.done(); }`.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const WEB = new URL("../../web/", import.meta.url);
const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml" };

// The policy is read from where the real server takes it, so that the two cannot differ.
async function securityPolicy() {
  const source = await readFile(new URL("lib.rs", WEB), "utf8");
  return /CONTENT_SECURITY_POLICY: &str =\s*"([^"]*)"/.exec(source)[1].replace(/\\\s*/g, "");
}

const entry = (type, fields = {}) => ({
  path: "/models/x",
  size_mb: 9.71,
  modified: "2026-11-20 10:30:00",
  type,
  format: "safetensors",
  architecture: "DeepseekV3ForCausalLM",
  parameters: 4_870_000,
  dtype: "bf16",
  context_length: 1024,
  status: "not_loaded",
  default: false,
  usable: true,
  ...fields,
});

export const MODELS = () => ({
  "sft/demo": entry("SFT", { status: "loaded", device: "cpu", default: true }),
  "pretrain/best.pt": entry("Pretrained", { format: "pt", size_mb: 1843.2, parameters: 685_000_000_000 }),
  "rl/demo": entry("RL"),
  "world/odd": entry("Unknown"),
  "sft/broken": entry("SFT", { status: "error", usable: false, error: "`model.safetensors`: the header is cut short", parameters: null }),
});

// One answer's stream, as the script sees it.
class Stream {
  constructor(response, task) {
    this.response = response;
    this.task = task;
    this.count = 0;
    this.cancelled = new Promise((resolve) => (this.cancel = resolve));
    this.closed = new Promise((resolve) => response.on("close", resolve));
  }

  raw(bytes) {
    this.response.write(bytes);
  }

  event(event) {
    this.raw(`data: ${JSON.stringify(event)}\n\n`);
  }

  token(token) {
    this.count += 1;
    this.event({ token, done: false });
  }

  done(fields = {}) {
    const usage = { prompt_tokens: 35, completion_tokens: this.count, total_tokens: 35 + this.count };
    const timings = { prompt_ms: 40.5, first_token_ms: 52.25, total_ms: 310, tokens_per_second: 87.44 };
    this.event({ token: "", done: true, finish_reason: "stop", usage, timings, ...fields });
    this.response.end();
  }
}

export class Fake {
  requests = [];
  models = MODELS();
  streams = new Map();
  answer = async (stream) => {
    stream.token("Hello there.");
    stream.done();
  };
  /** Set to `{status, body, headers}` to refuse the next generate requests. */
  refusal = null;
  /** The API key that is asked for, when set. */
  key = null;
  /** Progress values that a load goes through, one a status request. */
  loading = [0.2, 0.6];
  /** Answers a load with this body and status instead, when set. */
  loadRefusal = null;

  async start() {
    this.policy = await securityPolicy();
    this.server = createServer((request, response) => this.#serve(request, response));
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}/`;
    return this;
  }

  /** As when the process dies: open connections break, new ones are refused. */
  async stop() {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  /** The bodies of the generate requests so far. */
  get asked() {
    return this.requests.filter(({ path }) => path === "/api/generate").map(({ body }) => body);
  }

  saw(path) {
    return this.requests.filter((request) => request.path === path);
  }

  async #serve(request, response) {
    const path = decodeURIComponent(new URL(request.url, "http://x").pathname);
    const text = await new Promise((resolve) => {
      let all = "";
      request.on("data", (chunk) => (all += chunk)).on("end", () => resolve(all));
    });
    this.requests.push({ method: request.method, path, url: request.url, headers: request.headers, text, body: text ? JSON.parse(text) : null });
    const reply = (status, body) => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    };
    if (path === "/" || path.startsWith("/assets/")) return this.#file(path, response);
    if (this.key && request.headers.authorization !== `Bearer ${this.key}`) return reply(401, { error: "an API key is needed", code: "unauthorized" });
    if (path === "/api/models") return reply(200, { models: this.models, count: Object.keys(this.models).length });
    if (path === "/api/chat/clear") return reply(200, { success: true });
    if (path === "/api/generate") return this.#generate(text, response);
    if (path === "/api/generate/cancel") return this.#cancel(JSON.parse(text).task_id, reply);
    const model = /^\/api\/models\/(.+)\/(status|load|unload)$/.exec(path);
    if (model && this.models[model[1]]) return this.#model(model[1], model[2], reply);
    return reply(404, { error: "no such route", code: "not_found" });
  }

  async #file(path, response) {
    const name = path === "/" ? "index.html" : path.slice("/assets/".length);
    try {
      const bytes = await readFile(new URL(name, WEB));
      const type = TYPES[name.split(".").pop()];
      response.writeHead(200, { "content-type": type, "content-security-policy": this.policy, "x-content-type-options": "nosniff" }).end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  }

  async #generate(text, response) {
    if (this.refusal) {
      const { status, body, headers = {} } = this.refusal;
      response.writeHead(status, { "content-type": "application/json", ...headers }).end(typeof body === "string" ? body : JSON.stringify(body));
      return;
    }
    const task = `task-${this.streams.size + 1}`;
    response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-task-id": task });
    response.flushHeaders();
    response.socket.setNoDelay(true);
    const stream = new Stream(response, task);
    this.streams.set(task, stream);
    await this.answer(stream, JSON.parse(text));
  }

  #cancel(task, reply) {
    const stream = this.streams.get(task);
    if (!stream) return reply(404, { error: `unknown task ${task}`, code: "task_not_found" });
    stream.cancel();
    return reply(200, { success: true, task_id: task });
  }

  #model(name, verb, reply) {
    const model = this.models[name];
    const status = () => ({ name, status: model.status, loaded: model.status === "loaded", progress: model.progress, error: model.error });
    if (verb === "load" && this.loadRefusal) return reply(this.loadRefusal.status, this.loadRefusal.body);
    if (verb === "load" && model.status !== "loaded") {
      Object.assign(model, { status: "loading", progress: 0, steps: this.loading.slice() });
      return reply(202, status());
    }
    if (verb === "unload") {
      const loaded = model.status === "loaded";
      if (loaded) model.status = "not_loaded";
      return reply(200, { success: loaded, message: loaded ? `Model ${name} unloaded` : `Model ${name} is not loaded` });
    }
    if (verb === "status" && model.status === "loading") {
      const next = model.steps.shift();
      if (next === undefined) Object.assign(model, { status: "loaded", progress: undefined });
      else model.progress = next;
    }
    return reply(200, status());
  }
}

export { sleep };
