// context.test.js: a conversation that outgrows its model's context.

import assert from "node:assert/strict";
import { ask, finished, input, lastAnswer, pageTest, shows, useBrowser } from "./harness.js";

useBrowser();

const CONTEXT = 200;
const button = (page, name) => page.getByRole("button", { name, exact: true });
const stats = (page) => lastAnswer(page).locator(".stats");

// A server whose tokens are words and whose answers have ten of them: it refuses what the context cannot hold.
const counting = (fake, { words = 10 } = {}) => {
  fake.models["sft/demo"].context_length = CONTEXT;
  fake.answer = async (stream, { message, history }) => {
    const prompt = [...history.map(({ content }) => content), message].join(" ").split(" ").length;
    const usage = (completion) => ({ prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion });
    if (prompt >= CONTEXT) {
      const error = `prompt of ${prompt} tokens is over this model's ${CONTEXT - 1}: shorten it, or leave out earlier messages`;
      return stream.done({ finish_reason: "error", error, code: "context_length_exceeded", usage: usage(0), timings: { first_token_ms: null, total_ms: 1, tokens_per_second: 0 } });
    }
    const room = Math.min(words, CONTEXT - prompt);
    for (let i = 0; i < room; i += 1) stream.token(i === 0 ? "said" : " said");
    return stream.done({ usage: usage(room), finish_reason: room < words ? "length" : "stop" });
  };
};

const question = (n, words) => [`q${n}`, ...Array.from({ length: words - 1 }, () => "word")].join(" ");
const remembered = (body) => body.history.filter(({ role }) => role === "user").map(({ content }) => content.split(" ")[0]);

pageTest(
  "the earliest exchanges make room before the context is full, and the page says so",
  async ({ page, fake }) => {
    for (let n = 1; n <= 8; n += 1) {
      await ask(page, question(n, 20));
      await finished(page);
      assert.equal(await lastAnswer(page).locator(".error").count(), 0);
      assert.equal((await lastAnswer(page).locator(".words").innerText()).split(" ").length, 10, "answers are whole");
    }
    // Eight exchanges are 240 words in a context of 200, of which 50 are kept for the answer.
    const last = fake.asked.at(-1);
    assert.ok(remembered(last).length >= 3 && remembered(last).at(-1) === "q7", JSON.stringify(remembered(last)));
    const gone = 7 - remembered(last).length;
    assert.ok(gone > 1);
    await shows(stats(page), `without the first ${gone} exchanges`);
    assert.equal(fake.asked.length, 8, "guessed well enough that nothing was refused");
    assert.match(await page.locator("#gauge").innerText(), /^\d+ of 200 tokens$/);
    await page.reload();
    await shows(stats(page), `without the first ${gone} exchanges`);
    await ask(page, question(9, 20));
    await finished(page);
    assert.ok(!remembered(fake.asked.at(-1)).includes("q1"));
  },
  { setup: (fake) => counting(fake) },
);

pageTest(
  "what is refused for its length is asked again with less",
  async ({ page, fake }) => {
    for (let n = 1; n <= 4; n += 1) {
      await ask(page, question(n, 20));
      await finished(page);
    }
    // Short words: the guess from earlier ones is far too low.
    await ask(page, Array.from({ length: 140 }, () => "a").join(" "));
    await finished(page);
    assert.ok(fake.asked.length > 5, "the first try was refused");
    assert.equal(await lastAnswer(page).locator(".error").count(), 0);
    assert.match(await lastAnswer(page).locator(".words").innerText(), /^said/);
    assert.match(await stats(page).innerText(), /without the first \d exchanges/);
    assert.equal(await page.locator(".answer").count(), 5);
  },
  { setup: (fake) => counting(fake) },
);

pageTest(
  "a message that alone is too long says so and can be edited",
  async ({ page, fake }) => {
    await ask(page, question(1, 20));
    await finished(page);
    const long = question(2, 300);
    await ask(page, long);
    await shows(lastAnswer(page).locator(".error"), "prompt of 300 tokens is over this model's 199: shorten it");
    assert.equal(await button(page, "Retry").count(), 0);
    assert.ok(!(await stats(page).innerText()).includes("tokens/s"), "no speed");
    assert.equal(await page.locator("#gauge").innerText(), "300 of 200 tokens");
    await page.reload();
    await button(page, "Edit message").click();
    assert.equal(await input(page).inputValue(), long);
    await ask(page, "short");
    await finished(page);
    assert.equal(await page.locator(".error").count(), 0);
    assert.deepEqual(remembered(fake.asked.at(-1)), ["q1"], "the past was not given up for it");
  },
  { setup: (fake) => counting(fake) },
);

pageTest(
  "an answer that fills the context says so, and the conversation goes on",
  async ({ page }) => {
    await ask(page, question(1, 20));
    await finished(page);
    assert.equal(await lastAnswer(page).locator(".note").innerText(), "The model's context is full. Ask on, and the earliest messages make room, or begin a new chat.");
    assert.match(await page.locator("#gauge").innerText(), /^200 of 200 tokens$/);
    await ask(page, question(2, 20));
    await finished(page);
    assert.equal(await lastAnswer(page).locator(".error").count(), 0);
    await shows(stats(page), "without the first exchange");
  },
  { setup: (fake) => counting(fake, { words: 1000 }) },
);
