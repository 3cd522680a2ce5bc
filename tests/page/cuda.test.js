// cuda.test.js: the page against the real binary, whose model is on a simulated card. The driver's library is found by its
// name, as a real one would be: a folder of our own comes first in the search. Set HADAL_CUDA_BIN, a binary with test
// images (the dev profile's), and HADAL_CUDA_SIM, the simulator's library, to run it.

import assert from "node:assert/strict";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { ask, finished, lastAnswer, openPage, serve, useBrowser } from "./harness.js";

const { HADAL_CUDA_BIN: BIN, HADAL_CUDA_SIM: SIM } = process.env;
const QUESTION = "What is the capital of Japan?";
const TOKENS = 12;

// A simulated step takes a while; this is no test of speed.
const PATIENCE_MS = 120_000;

/** Every different text that an answer shows while it grows. */
const watchAnswer = (page) =>
  page.evaluate(() => {
    window.seen = [];
    const look = () => {
      const text = document.querySelector(".answer:last-child .words")?.innerText.trim();
      if (text && text !== window.seen.at(-1)) window.seen.push(text);
    };
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
  });

/** The words and usage of a stream of events. */
function heard(text) {
  const events = [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => data).filter((data) => data !== "[DONE]");
  const parsed = events.map((data) => JSON.parse(data));
  return { words: parsed.map((event) => event.token ?? "").join(""), usage: parsed.find((event) => event.usage)?.usage };
}

if (!BIN || !SIM) {
  test("the page against a simulated card", { skip: "HADAL_CUDA_BIN or HADAL_CUDA_SIM is not set" }, () => {});
} else {
  useBrowser();
  let folder;
  let server;
  let url;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "hadal-cuda-"));
    await symlink(resolve(SIM), join(folder, "libcuda.so"));
    ({ server, url } = await serve(BIN, ["--device", "cuda", "--sequences", "2"], { LD_LIBRARY_PATH: folder }));
  });
  after(async () => {
    server?.kill("SIGTERM");
    if (folder) await rm(folder, { recursive: true });
  });

  test("a model on the card is chatted with", { timeout: 2 * PATIENCE_MS }, async () => {
    const page = await openPage(url);
    page.setDefaultTimeout(PATIENCE_MS);
    try {
      await page.locator("#model-chip[data-status=loaded]").waitFor();
      const { device, device_why: why } = await (await fetch(new URL("api/models/sft/demo/status", url))).json();
      assert.match(device, /^cuda:0 \(H100 \(simulated\)\)$/);
      assert.equal(why, "asked for");
      await page.locator("#model-chip").click();
      const facts = page.locator("#model-list .model.chosen .facts");
      await facts.waitFor();
      assert.ok((await facts.innerText()).split(" · ").includes(`on ${device}`), await facts.innerText());
      await shot(page, "models");
      await page.keyboard.press("Escape");

      await page.getByRole("button", { name: "Settings" }).click();
      await page.getByLabel("Max tokens", { exact: true }).fill(`${TOKENS}`);
      await page.getByRole("spinbutton", { name: "Temperature" }).fill("0");
      await page.keyboard.press("Escape");
      const asked = page.waitForRequest((request) => request.url().endsWith("/api/generate"));
      await watchAnswer(page);
      await ask(page, QUESTION);
      const body = (await asked).postData();
      await finished(page);
      await shot(page, "answer");
      assert.equal(await page.locator(".error").count(), 0);

      const seen = await page.evaluate(() => window.seen);
      assert.ok(seen.length >= 3, `the answer came in ${seen.length} pieces: ${JSON.stringify(seen)}`);
      const reply = await fetch(new URL("api/generate", url), { method: "POST", headers: { "Content-Type": "application/json" }, body });
      assert.equal(reply.status, 200);
      const { words, usage } = heard(await reply.text());
      assert.equal(JSON.parse(body).temperature, 0);
      assert.ok(usage.completion_tokens > 3 && usage.completion_tokens <= TOKENS, JSON.stringify(usage));
      assert.equal(await lastAnswer(page).locator(".words").innerText(), words.trim());
      assert.match(await lastAnswer(page).locator(".stats").innerText(), new RegExp(`^${usage.completion_tokens} tokens · .* · sft/demo$`));
      assert.deepEqual(page.trouble, []);
    } finally {
      await page.context().close();
    }
  });
}

/** A picture for whoever wants to look, in the folder of HADAL_SHOTS. */
async function shot(page, name) {
  if (process.env.HADAL_SHOTS) await page.screenshot({ path: join(process.env.HADAL_SHOTS, `cuda-${name}.png`) });
}
