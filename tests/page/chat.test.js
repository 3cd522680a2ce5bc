// chat.test.js: talking: streaming, stopping, history, settings and errors.

import assert from "node:assert/strict";
import { answers, ask, finished, input, lastAnswer, pageTest, shows, useBrowser } from "./harness.js";
import { sleep } from "./fake.js";

useBrowser();

const words = (page) => lastAnswer(page).locator(".words");
const button = (page, name) => page.getByRole("button", { name, exact: true });

pageTest("an answer comes word by word and ends with its counts", async ({ page, fake }) => {
  let goOn;
  const halted = new Promise((resolve) => (goOn = resolve));
  fake.answer = async (stream) => {
    stream.token("Tokyo is ");
    await halted;
    stream.token("the **capital**.");
    stream.done();
  };
  await ask(page, "What is the capital of Japan?");
  await shows(words(page), "Tokyo is");
  assert.ok(await button(page, "Stop").isVisible());
  goOn();
  await finished(page);
  assert.equal(await words(page).innerText(), "Tokyo is the capital.");
  assert.equal(await words(page).locator("strong").innerText(), "capital");
  assert.equal(await lastAnswer(page).locator(".stats").innerText(), "2 tokens · 87.4 tokens/s · first after 52 ms · prompt 35 tokens · sft/demo");
  assert.equal(await page.locator("#gauge").innerText(), "37 of 1,024 tokens");
  assert.equal(await page.locator("#announcer").textContent(), "Tokyo is the **capital**.");
});

pageTest("characters of many bytes survive being split over network chunks", async ({ page, fake }) => {
  const text = "深い海の底 — 🐙 naïve";
  fake.answer = async (stream) => {
    const bytes = Buffer.from(`data: ${JSON.stringify({ token: text, done: false })}\r\n\r\n`);
    for (const byte of bytes) {
      stream.raw(Buffer.from([byte]));
      await sleep(1);
    }
    stream.done();
  };
  await ask(page, "hi");
  await finished(page);
  assert.equal(await words(page).innerText(), text);
});

pageTest("a suggestion is sent at once", async ({ page, fake }) => {
  await button(page, "Who are you?").click();
  await finished(page);
  assert.equal(fake.asked[0].message, "Who are you?");
  assert.ok(await page.locator("#welcome").isHidden());
});

pageTest("Stop cancels by task, keeps the text, and tells the counts", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.token("Once upon ");
    await stream.cancelled;
    stream.done({ finish_reason: "cancelled" });
  };
  await ask(page, "story");
  await shows(words(page), "Once upon");
  await button(page, "Stop").click();
  await finished(page);
  assert.deepEqual(fake.saw("/api/generate/cancel").map(({ body }) => body), [{ task_id: "task-1" }]);
  assert.equal(await words(page).innerText(), "Once upon");
  assert.equal(await lastAnswer(page).locator(".note").innerText(), "Stopped.");
  assert.match(await lastAnswer(page).locator(".stats").innerText(), /^1 token ·/);
  assert.ok(await button(page, "Send").isVisible());
});

pageTest("Esc stops, and a server that does not end the stream is hung up on", async ({ page, fake }) => {
  let closed;
  fake.answer = async (stream) => {
    stream.token("Once ");
    closed = stream.closed;
    await stream.closed;
  };
  await ask(page, "story");
  await shows(words(page), "Once");
  await page.keyboard.press("Escape");
  await finished(page);
  await closed;
  assert.equal(await lastAnswer(page).locator(".note").innerText(), "Stopped.");
});

pageTest("the turns so far go along as history, without failed ones and without thoughts", async ({ page, fake }) => {
  fake.answer = async (stream, body) => {
    stream.token(`<think>hm</think>\n\nYou said ${body.message}.`);
    stream.done();
  };
  await ask(page, "one");
  await finished(page);
  assert.equal(await page.locator(".thinking summary").innerText(), "Thoughts");
  fake.refusal = { status: 429, body: { error: "the queue is full", code: "queue_full" } };
  await ask(page, "two");
  await finished(page);
  fake.refusal = null;
  await ask(page, "three");
  await finished(page);
  assert.deepEqual(fake.asked.map(({ message }) => message), ["one", "two", "three"]);
  assert.deepEqual(fake.asked[2].history, [
    { role: "user", content: "one" },
    { role: "assistant", content: "You said one." },
  ]);
});

pageTest("settings go along, are kept, and bad values are told and not sent", async ({ page, fake }) => {
  await button(page, "Settings").click();
  const field = (name) => page.getByLabel(name, { exact: true });
  await field("Temperature").fill("1.25");
  await field("Top-p").fill("0.5");
  await field("Top-k").fill("7");
  await field("Min-p").fill("0.1");
  await field("Repetition penalty").fill("1.3");
  await field("Max tokens").fill("64");
  await field("Seed").fill("18446744073709551615");
  await field("System prompt").fill("Be brief.");
  await field("Stop texts").fill("END\n\\n\\n");
  await field("Top-p").fill("1.5");
  assert.equal(await field("Top-p").getAttribute("aria-invalid"), "true");
  assert.ok(await page.getByText("Enter a number from 0.01 to 1.").isVisible());
  await page.keyboard.press("Escape");
  await ask(page, "hi");
  await finished(page);
  const { model, history, ...sent } = fake.asked[0];
  assert.equal(model, "sft/demo");
  assert.deepEqual(history, [{ role: "system", content: "Be brief." }]);
  assert.deepEqual({ ...sent, seed: undefined }, {
    message: "hi", temperature: 1.25, top_p: 0.5, top_k: 7, min_p: 0.1, repetition_penalty: 1.3, max_new_tokens: 64, stop: ["END", "\n\n"], seed: undefined,
  });
  assert.match(fake.saw("/api/generate")[0].text, /"seed":18446744073709551615}$/);
  await page.reload();
  await button(page, "Settings").click();
  assert.equal(await field("Temperature").inputValue(), "1.25");
  assert.equal(await field("Top-p").inputValue(), "0.5");
  await page.getByRole("button", { name: "Precise" }).click();
  assert.equal(await field("Temperature").inputValue(), "0");
  assert.equal(await page.getByRole("button", { name: "Precise" }).getAttribute("aria-pressed"), "true");
  await button(page, "Reset to defaults").click();
  assert.equal(await field("Temperature").inputValue(), "0.7");
});

pageTest("defaults are the server's own, and no seed and no stop are sent", async ({ page, fake }) => {
  await ask(page, "hi");
  await finished(page);
  assert.deepEqual(fake.asked[0], {
    model: "sft/demo", message: "hi", history: [], temperature: 0.7, top_p: 0.9, top_k: 50, min_p: 0, repetition_penalty: 1.1, max_new_tokens: 512,
  });
});

pageTest("an API key goes along where one is set", async ({ page, fake }) => {
  fake.refusal = { status: 401, body: "" };
  await ask(page, "hi");
  await shows(lastAnswer(page).locator(".error"), "The server asks for an API key. Enter it in the settings.");
  fake.refusal = null;
  await button(page, "Settings").click();
  await page.getByLabel("API key").fill("secret");
  await page.keyboard.press("Escape");
  await button(page, "Retry").click();
  await shows(words(page), "Hello there.");
  assert.equal(fake.saw("/api/generate")[1].headers.authorization, "Bearer secret");
});

pageTest("a refusal is told in the server's words, and Retry asks again", async ({ page, fake }) => {
  const refusals = [
    [{ status: 404, body: { error: "there is no model `sft/demo`", code: "model_not_found" } }, "there is no model `sft/demo`"],
    [{ status: 422, body: { error: "`temperature` is 9; it must be from 0 to 5", code: "out_of_range" } }, "`temperature` is 9; it must be from 0 to 5"],
    [{ status: 429, body: { error: "the queue is full.", code: "queue_full" }, headers: { "retry-after": "3" } }, "the queue is full. Try again in 3 s."],
    [{ status: 503, body: { error: "the model needs 9.00 GB, 2.00 GB are free", code: "not_enough_memory" } }, "the model needs 9.00 GB, 2.00 GB are free"],
    [{ status: 503, body: { error: "the model needs 9.00 GB, 2.00 GB are free", code: "not_enough_memory" }, headers: { "retry-after": "30" } }, "the model needs 9.00 GB, 2.00 GB are free. Try again in 30 s."],
    [{ status: 502, body: "<h1>Bad gateway</h1>" }, "The proxy in front of the server cannot reach it. Try again in a moment."],
    [{ status: 418, body: "?" }, "The server answered with status 418."],
  ];
  fake.refusal = refusals[0][0];
  await ask(page, "hi");
  for (const [refusal, sentence] of refusals) {
    fake.refusal = refusal;
    await button(page, "Retry").click();
    await shows(lastAnswer(page).locator(".error"), sentence);
    assert.equal(await lastAnswer(page).locator(".error").innerText(), sentence);
  }
  fake.refusal = null;
  await button(page, "Retry").click();
  await shows(words(page), "Hello there.");
  assert.equal(await answers(page).count(), 1);
  assert.equal(await lastAnswer(page).locator(".count").count(), 0);
});

pageTest("an error in the middle keeps what came", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.token("Half an ");
    stream.event({ error: "the device was lost", done: true, finish_reason: "error" });
    stream.response.end();
  };
  await ask(page, "hi");
  await shows(lastAnswer(page).locator(".error"), "the device was lost");
  assert.equal(await words(page).innerText(), "Half an");
});

pageTest("a connection that breaks in the middle is told, and what came is kept", async ({ page, fake }) => {
  for (const end of [(stream) => stream.response.end(), (stream) => stream.response.destroy()]) {
    fake.answer = async (stream) => {
      stream.token("Half an ");
      await sleep(100);
      end(stream);
    };
    await ask(page, "hi");
    await shows(lastAnswer(page).locator(".error"), "The connection ended before the answer was complete. What has arrived is kept.");
    assert.equal(await words(page).innerText(), "Half an");
  }
});

pageTest("an event that is no JSON is told", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.raw("data: {oops\n\n");
  };
  await ask(page, "hi");
  await shows(lastAnswer(page).locator(".error"), "The server sent something this page cannot read.");
});

pageTest("a server that is gone is told plainly", async ({ page, fake }) => {
  await fake.stop();
  await ask(page, "hi");
  await shows(lastAnswer(page).locator(".error"), "The server cannot be reached. Check that hadal is running");
  assert.ok(await button(page, "Retry").isVisible());
});

pageTest("a model that loads on demand is waited for", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.raw(": loading\n\n");
    await sleep(300);
    stream.raw(": loading\n\n");
    await sleep(100);
    stream.token("Ready.");
    stream.done();
  };
  await ask(page, "hi");
  await shows(lastAnswer(page).locator(".note"), "Loading sft/demo…");
  await finished(page);
  assert.equal(await words(page).innerText(), "Ready.");
});

pageTest("another answer is a variant, and the picked one is the history", async ({ page, fake }) => {
  let count = 0;
  fake.answer = async (stream) => {
    count += 1;
    stream.token(`Answer ${count}`);
    stream.done({ finish_reason: count === 2 ? "length" : "stop" });
  };
  await ask(page, "hi");
  await finished(page);
  await button(page, "Answer again").click();
  await shows(words(page), "Answer 2");
  await finished(page);
  assert.match(await lastAnswer(page).locator(".note").innerText(), /^Ended at the token limit/);
  await button(page, "Earlier answer").click();
  assert.equal(await words(page).innerText(), "Answer 1");
  assert.equal(await lastAnswer(page).locator(".count").innerText(), "1 / 2");
  await ask(page, "more");
  await finished(page);
  assert.deepEqual(fake.asked[1].history, []);
  assert.deepEqual(fake.asked[2].history[1], { role: "assistant", content: "Answer 1" });
});

pageTest("an earlier question can be asked differently", async ({ page, fake }) => {
  for (const text of ["one", "two"]) {
    await ask(page, text);
    await finished(page);
  }
  await page.locator(".question").first().hover();
  await page.locator(".question").first().getByRole("button", { name: "Edit and ask again" }).click();
  assert.equal(await input(page).inputValue(), "one");
  assert.equal(await answers(page).count(), 2);
  await page.keyboard.press("Escape");
  assert.equal(await input(page).inputValue(), "");
  await page.locator(".question").first().hover();
  await page.locator(".question").first().getByRole("button", { name: "Edit and ask again" }).click();
  await ask(page, "uno");
  await finished(page);
  assert.equal(await answers(page).count(), 1);
  assert.deepEqual(fake.asked.at(-1).history, []);
  assert.equal(fake.asked.at(-1).message, "uno");
});

pageTest("hostile answers and names never become markup", async ({ page, fake }) => {
  const evil = '<img src=x onerror="document.title=1"><script>document.title=1</script> [a](javascript:document.title=1)';
  fake.answer = async (stream) => {
    for (const char of evil) stream.token(char);
    stream.done();
  };
  await ask(page, evil);
  await finished(page);
  assert.equal(await page.locator(".question .words").innerText(), evil);
  assert.equal(await page.locator(".turn img, .turn script, .turn a").count(), 0);
  fake.refusal = { status: 422, body: { error: evil, code: "x" } };
  await ask(page, "hi");
  await finished(page);
  assert.equal(await page.locator(".error").innerText(), evil);
  assert.equal(await page.title(), "hadal");
});

pageTest("a very long answer in a very long chat keeps the page alive", async ({ page, fake }) => {
  await page.evaluate(() => {
    const turn = (i) => [{ role: "user", content: `question ${i}` }, { role: "assistant", variants: [{ content: "A **long** answer. ".repeat(60), finish: "stop" }], picked: 0 }];
    const messages = Array.from({ length: 400 }, (_, i) => turn(i)).flat();
    localStorage.setItem("hadal.chat.long", JSON.stringify({ id: "long", updated: Date.now(), messages }));
    localStorage.setItem("hadal.open", '"long"');
  });
  await page.reload();
  assert.equal(await answers(page).count(), 400);
  fake.answer = async (stream) => {
    for (let i = 0; i < 4000; i += 1) {
      stream.token(i % 40 === 39 ? "\n\n" : "The lamp was **lit** and the fox read on. ");
      if (i % 100 === 0) await sleep(1);
    }
    stream.done();
  };
  const before = await page.locator(".answer").first().elementHandle();
  await page.evaluate(() => {
    window.longest = 0;
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration);
    }).observe({ type: "longtask" });
  });
  await ask(page, "go");
  await finished(page);
  assert.ok(await before.evaluate((node) => node.isConnected), "earlier turns are not drawn anew");
  const longest = await page.evaluate(() => window.longest);
  assert.ok(longest < 1000, `the page stood still for ${longest} ms`);
  assert.equal((await words(page).innerText()).length > 100_000, true);
});

pageTest("reading further up is not disturbed by new text", async ({ page, fake }) => {
  let goOn;
  const halted = new Promise((resolve) => (goOn = resolve));
  fake.answer = async (stream) => {
    for (let i = 0; i < 80; i += 1) stream.token(`Line ${i}\n\n`);
    await halted;
    for (let i = 80; i < 120; i += 1) stream.token(`Line ${i}\n\n`);
    stream.done();
  };
  await ask(page, "go");
  await shows(words(page), "Line 79");
  const fromEnd = () => page.locator("#scroller").evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight);
  await page.waitForFunction(() => {
    const node = document.getElementById("scroller");
    return node.scrollHeight - node.scrollTop - node.clientHeight < 5;
  });
  await page.locator("#scroller").evaluate((node) => (node.scrollTop = 100));
  goOn();
  await finished(page);
  assert.equal(await page.locator("#scroller").evaluate((node) => node.scrollTop), 100);
  await button(page, "To the latest message").click();
  assert.ok((await fromEnd()) < 5);
});
