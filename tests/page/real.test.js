// real.test.js: the page against the real binary and the demo model in it. Set HADAL_BIN to run it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { answers, ask, finished, lastAnswer, openPage, serve, shows, useBrowser } from "./harness.js";

const BIN = process.env.HADAL_BIN;

if (!BIN) {
  test("the page against the real server", { skip: "HADAL_BIN is not set" }, () => {});
} else {
  useBrowser();
  let server;
  let url;

  before(async () => {
    ({ server, url } = await serve(BIN));
  });
  after(() => server.kill("SIGTERM"));

  const realTest = (name, body) =>
    test(name, { timeout: 180_000 }, async () => {
      const page = await openPage(url);
      page.setDefaultTimeout(60_000);
      try {
        await page.locator("#model-chip[data-status=loaded]").waitFor();
        await body(page);
        assert.deepEqual(page.trouble, []);
      } finally {
        await page.context().close();
      }
    });

  // Hot and unfiltered, the demo model hardly ever ends by itself: an answer fills its context.
  const HOT = { temperature: 5, top_p: 1, top_k: 0, max_new_tokens: 2000 };

  /** Keeps the engine's batch full until the result is called, so that an answer takes seconds and not a tenth of one. */
  const keepBusy = () => {
    const end = new AbortController();
    const other = async () => {
      const body = JSON.stringify({ message: "Tell me a story about a fox and a lamp.", ...HOT });
      while (!end.signal.aborted) {
        const reply = await fetch(new URL("/api/generate", url), { method: "POST", headers: { "Content-Type": "application/json" }, body, signal: end.signal });
        assert.equal(reply.status, 200);
        await reply.text();
      }
    };
    const others = Promise.all(Array.from({ length: 30 }, other)).catch((error) => assert.equal(error.name, "AbortError"));
    return () => (end.abort(), others);
  };

  /** Asks, stops the answer when it has words, and gives the cancel's status: null if the answer was whole before. */
  const stopAtTheFirstWords = async (page) => {
    let status = null;
    const note = (response) => {
      if (response.url().endsWith("/api/generate/cancel")) status = response.status();
    };
    page.on("response", note);
    await ask(page, "Tell me a story about a fox and a lamp.");
    await page.locator(".answer.growing .markdown p, .answer:last-child .foot button").first().waitFor();
    await page.keyboard.press("Escape");
    await finished(page);
    page.off("response", note);
    return status;
  };

  realTest("a question is answered, with its counts, and remembered", async (page) => {
    await page.getByRole("button", { name: "What is the capital of Japan?" }).click();
    await finished(page);
    assert.equal(await lastAnswer(page).locator(".error").count(), 0);
    assert.notEqual(await lastAnswer(page).locator(".words").innerText(), "");
    assert.match(await lastAnswer(page).locator(".stats").innerText(), /^[\d,]+ tokens? · [\d.]+ tokens\/s · first after .+ · prompt [\d,]+ tokens · sft\/demo$/);
    await ask(page, "What is the opposite of hot?");
    await finished(page);
    assert.equal(await answers(page).count(), 2);
    assert.equal(await page.locator(".error").count(), 0);
  });

  realTest("a generation can be stopped and the next one works", async (page) => {
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Max tokens", { exact: true }).fill(`${HOT.max_new_tokens}`);
    await page.getByRole("spinbutton", { name: "Temperature" }).fill(`${HOT.temperature}`);
    await page.getByRole("spinbutton", { name: "Top-p" }).fill(`${HOT.top_p}`);
    await page.getByRole("spinbutton", { name: "Top-k" }).fill(`${HOT.top_k}`);
    await page.keyboard.press("Escape");
    const stopOthers = keepBusy();
    // A stop that came too late (404, or no cancel at all) is tried on another answer.
    let status = null;
    for (let tries = 0; status !== 200 && tries < 20; tries += 1) status = await stopAtTheFirstWords(page);
    await stopOthers();
    assert.equal(status, 200);
    assert.equal(await lastAnswer(page).locator(".note").innerText(), "Stopped.");
    assert.match(await lastAnswer(page).locator(".stats").innerText(), /^[\d,]+ tokens?/, "the last event came after the cancel");
    await ask(page, "Who are you?");
    await finished(page);
    assert.equal(await page.locator(".error").count(), 0);
  });

  realTest("another model is chosen, loaded, asked and unloaded", async (page) => {
    await page.locator("#model-chip").click();
    await page.locator("#model-list .model").first().waitFor();
    const other = page.locator("#model-list .model:not(.chosen) .pick:enabled").first();
    if ((await other.count()) === 0) return;
    const name = await other.locator(".name").innerText();
    await other.click();
    await shows(page.locator("#model-chip"), name);
    await page.locator("#model-chip[data-status=loaded]").waitFor();
    if (await page.locator("#models[open]").count()) await page.keyboard.press("Escape");
    await ask(page, "Count from 3 to 9.");
    await finished(page);
    assert.equal(await page.locator(".error").count(), 0);
    assert.ok((await lastAnswer(page).locator(".stats").innerText()).endsWith(name));
    await page.locator("#model-chip").click();
    await page.getByRole("button", { name: `Unload ${name}` }).click();
    await shows(page.locator("#model-list .model", { hasText: name }).locator(".state"), "Not loaded");
  });

  realTest("Clear empties the chat", async (page) => {
    await ask(page, "What is 7 plus 5?");
    await finished(page);
    const cleared = page.waitForResponse((response) => response.url().endsWith("/api/chat/clear"));
    await page.getByRole("button", { name: "Clear chat" }).click();
    assert.equal((await cleared).status(), 200);
    assert.equal(await page.locator(".turn").count(), 0);
  });

  test("the page is served with its policy, types and tags", async () => {
    const page = await fetch(url);
    assert.match(page.headers.get("content-type"), /^text\/html/);
    assert.match(page.headers.get("content-security-policy"), /default-src 'none'/);
    const script = await fetch(new URL("assets/app.js", url));
    assert.match(script.headers.get("content-type"), /^text\/javascript/);
    assert.match(script.headers.get("etag"), /^"[0-9a-f]{16}"$/);
    assert.equal((await fetch(new URL("assets/none.js", url))).status, 404);
  });
}
