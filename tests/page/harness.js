// harness.js: a browser for all tests of a file, and a fresh page with its own fake server for each test.
// What the page may never do, in any test, is checked here: throw, break its own content policy, leave its host.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { Fake } from "./fake.js";

const ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const START_MS_MAX = 60_000;

let browser = null;

/** Starts the file's browser before its tests and closes it after them. */
export function useBrowser() {
  before(async () => {
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ARGS });
  });
  after(() => browser?.close());
}

/** A page at `url` that records its trouble in `page.trouble`. */
export async function openPage(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, permissions: ["clipboard-read", "clipboard-write"], ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  page.trouble = [];
  page.on("pageerror", (error) => page.trouble.push(`thrown: ${error.stack ?? error.message}`));
  page.on("console", (message) => {
    // The browser itself reports refused requests; whether the page tells the user is what the tests look at.
    const refused = /Failed to load resource|net::ERR_/.test(message.text());
    if (message.type() === "error" && !refused) page.trouble.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    if (!/^(blob|data):/.test(request.url()) && new URL(request.url()).host !== new URL(url).host) page.trouble.push(`left the host: ${request.url()}`);
  });
  await page.goto(url);
  return page;
}

/** A test of the page against a fake server: `body({page, fake})`. `setup(fake)` runs before the page opens. */
export function pageTest(name, body, { setup = () => {}, context = {} } = {}) {
  test(name, { timeout: 60_000 }, async () => {
    const fake = await new Fake().start();
    setup(fake);
    const page = await openPage(fake.url, context);
    try {
      await page.getByRole("button", { name: /^Model: / }).waitFor();
      await body({ page, fake });
      assert.deepEqual(page.trouble, []);
    } finally {
      await page.context().close();
      await fake.stop().catch(() => {});
    }
  });
}

export const input = (page) => page.getByRole("textbox", { name: "Message", exact: true });
export const answers = (page) => page.locator(".answer");
export const lastAnswer = (page) => page.locator(".answer").last();

/** Types a message and sends it with Enter. */
export async function ask(page, text) {
  await input(page).fill(text);
  await input(page).press("Enter");
}

/** Waits for the growing answer to end. */
export async function finished(page) {
  await page.locator(".answer:last-child .foot button").first().waitFor();
}

/** Waits until an element's text holds `text`. */
export async function shows(locator, text) {
  await locator.filter({ hasText: text }).first().waitFor();
}

/** Starts the real server on a free port; `args` go behind `serve`, `env` over the environment. */
export async function serve(bin, args = [], env = {}) {
  const server = spawn(bin, ["serve", "--port", "0", ...args], { stdio: ["ignore", "pipe", "pipe"], cwd: new URL("../../", import.meta.url), env: { ...process.env, ...env } });
  return { server, url: await address(server) };
}

// The first whole line, on either stream, that says where the server listens; it may come in pieces.
function address(child) {
  return new Promise((resolve, reject) => {
    let said = "";
    const timer = setTimeout(() => reject(new Error(`no address in time:\n${said}`)), START_MS_MAX);
    const read = (chunk) => {
      said += chunk;
      const found = /listening on (http:\/\/\S+)\s/.exec(said);
      if (!found) return;
      clearTimeout(timer);
      resolve(`${found[1]}/`);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${said}`)));
  });
}
