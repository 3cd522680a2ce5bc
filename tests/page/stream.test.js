// stream.test.js: stream.js and thinking.js alone, with every cut the network can make.

import assert from "node:assert/strict";
import { pageTest, useBrowser } from "./harness.js";

useBrowser();

// Runs `source` through the reader, its bytes cut into chunks of each size from 1 up.
const readCut = (source) => async (page) =>
  page.evaluate(async (text) => {
    const { events } = await import("/assets/stream.js");
    const bytes = new TextEncoder().encode(text);
    const results = new Set();
    for (let size = 1; size <= Math.min(bytes.length, 40); size += 1) {
      const body = new ReadableStream({
        start(controller) {
          for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
          controller.close();
        },
      });
      const found = [];
      for await (const item of events(new Response(body))) found.push(item);
      results.add(JSON.stringify(found));
    }
    return [...results].map((result) => JSON.parse(result));
  }, source);

async function check(page, source, expected) {
  assert.deepEqual(await readCut(source)(page), [expected]);
}

pageTest("events are the same however the bytes are cut", async ({ page }) => {
  const text = "深い海 🌊 naïve";
  await check(page, `data: {"token":"${text}"}\n\ndata: {"done":true}\n\n`, [{ event: { token: text } }, { event: { done: true } }]);
});

pageTest("all three line endings end a line", async ({ page }) => {
  const expected = [{ event: 1 }, { event: 2 }];
  for (const end of ["\n", "\r\n", "\r"]) await check(page, `data: 1${end}${end}data: 2${end}${end}`, expected);
});

pageTest("comments are told and fields of no use are skipped", async ({ page }) => {
  await check(page, `: loading\n\nevent: x\nid: 7\nretry: 10\ndata:{"a":1}\n\n`, [{ comment: "loading" }, { event: { a: 1 } }]);
});

pageTest("data over several lines is joined, and an event without its end is dropped", async ({ page }) => {
  await check(page, `data: [1,\ndata: 2]\n\ndata: [3]\n`, [{ event: [1, 2] }]);
});

pageTest("a line without end is refused before it fills the memory", async ({ page }) => {
  const message = await page.evaluate(async () => {
    const { SseParser } = await import("/assets/stream.js");
    const parser = new SseParser();
    try {
      for (let i = 0; i < 200; i += 1) parser.push("x".repeat(65_536));
    } catch (error) {
      return error.message;
    }
    return "none";
  });
  assert.match(message, /too long/);
});

pageTest("thinking is parted from the answer wherever the tags are cut", async ({ page }) => {
  const results = await page.evaluate(async () => {
    const { ThinkSplitter } = await import("/assets/thinking.js");
    const cases = ["<think>why < not</think>\n\nThe answer", "No thoughts <think>", "<thi", "<think>unfinished </thi", "a</think>b"];
    return cases.map((text) => {
      const found = new Set();
      for (let size = 1; size <= text.length; size += 1) {
        const splitter = new ThinkSplitter();
        const all = { thinking: "", answer: "" };
        for (let at = 0; at <= text.length; at += size) {
          const added = splitter.push(text.slice(at, at + size), at + size > text.length);
          all.thinking += added.thinking;
          all.answer += added.answer;
        }
        found.add(JSON.stringify(all));
      }
      return [...found].map((one) => JSON.parse(one));
    });
  });
  assert.deepEqual(results, [
    [{ thinking: "why < not", answer: "The answer" }],
    [{ thinking: "", answer: "No thoughts <think>" }],
    [{ thinking: "", answer: "<thi" }],
    [{ thinking: "unfinished </thi", answer: "" }],
    [{ thinking: "", answer: "a</think>b" }],
  ]);
});
