// keep.test.js: what is kept, cleared, exported, imported and copied.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { ask, finished, lastAnswer, openPage, pageTest, shows, useBrowser } from "./harness.js";

useBrowser();

const words = (page) => lastAnswer(page).locator(".words");
const button = (page, name) => page.getByRole("button", { name, exact: true });

pageTest("Clear empties the chat, tells the server, and can be undone", async ({ page, fake }) => {
  await ask(page, "hi");
  await finished(page);
  await button(page, "Clear chat").click();
  assert.equal(await page.locator(".turn").count(), 0);
  assert.ok(await page.locator("#welcome").isVisible());
  await button(page, "Undo").click();
  assert.equal(await page.locator(".turn").count(), 2);
  await button(page, "Clear chat").click();
  await page.reload();
  await page.locator("#welcome").waitFor();
  assert.equal(await page.locator(".turn").count(), 0);
  assert.equal(fake.saw("/api/chat/clear").length, 2);
});

pageTest("taking a cleared chat back does not cost what was said since", async ({ page }) => {
  await ask(page, "first chat");
  await finished(page);
  await button(page, "Clear chat").click();
  await ask(page, "second chat");
  await finished(page);
  await button(page, "Undo").click();
  assert.equal(await page.locator(".question .words").innerText(), "first chat");
  await button(page, "Chats").click();
  assert.deepEqual((await page.locator("#chat-list .name").allInnerTexts()).sort(), ["first chat", "second chat"]);
  await page.locator("#chat-list .pick", { hasText: "second chat" }).click();
  assert.equal(await page.locator(".question .words").innerText(), "second chat");
  await page.reload();
  assert.equal(await page.locator(".question .words").innerText(), "second chat");
});

pageTest("Clear in the middle of an answer ends it for good", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.token("Once ");
    await stream.cancelled;
    stream.done({ finish_reason: "cancelled" });
  };
  await ask(page, "story");
  await shows(words(page), "Once");
  await button(page, "Clear chat").click();
  await button(page, "Send").waitFor();
  await page.reload();
  await page.locator("#welcome").waitFor();
  assert.equal(await page.locator(".turn").count(), 0);
});

pageTest("a chat survives a reload, also in the middle of an answer", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.token("Half **an** answer");
    await stream.closed;
  };
  await ask(page, "hi <b>there</b>");
  await shows(words(page), "Half");
  await page.reload();
  assert.equal(await page.locator(".question .words").innerText(), "hi <b>there</b>");
  assert.equal(await words(page).innerText(), "Half an answer");
  assert.equal(await lastAnswer(page).locator(".note").innerText(), "Stopped.");
});

pageTest("chats are listed, opened and deleted", async ({ page }) => {
  for (const text of ["first chat", "second chat"]) {
    await button(page, "New chat").click();
    await ask(page, text);
    await finished(page);
  }
  await button(page, "Chats").click();
  assert.deepEqual(await page.locator("#chat-list .name").allInnerTexts(), ["second chat", "first chat"]);
  await page.locator("#chat-list .pick", { hasText: "first chat" }).click();
  assert.equal(await page.locator(".question .words").innerText(), "first chat");
  await button(page, "Chats").click();
  await button(page, "Delete “second chat”").click();
  assert.deepEqual(await page.locator("#chat-list .name").allInnerTexts(), ["first chat"]);
  await button(page, "Undo").click();
  assert.equal(await page.locator("#chat-list .name").count(), 2);
});

pageTest("a chat can be exported and imported", async ({ page, fake }) => {
  await ask(page, "What is 7 plus 5?");
  await finished(page);
  await button(page, "Chats").click();
  const [download] = await Promise.all([page.waitForEvent("download"), button(page, "Export this chat").click()]);
  assert.equal(download.suggestedFilename(), "what-is-7-plus-5.json");
  const path = await download.path();
  const file = JSON.parse(await readFile(path, "utf8"));
  assert.deepEqual(file.messages.map(({ role }) => role), ["user", "assistant"]);
  assert.equal(file.model, "sft/demo");
  assert.equal(file.settings.temperature, 0.7);
  await page.keyboard.press("Escape");
  const other = await openPage(fake.url);
  await button(other, "Chats").click();
  await other.locator("#import-file").setInputFiles({ name: "bad.json", mimeType: "application/json", buffer: Buffer.from('{"messages": [{"role": "user"}]}') });
  await other.getByText("bad.json is not a chat that this page can read.").waitFor();
  const turned = { messages: [{ role: "assistant", content: "a" }, { role: "user", content: "b" }] };
  await other.locator("#import-file").setInputFiles({ name: "odd.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(turned)) });
  await other.getByText("odd.json is not a chat that this page can read.").waitFor();
  await other.locator("#import-file").setInputFiles(path);
  await shows(words(other), "Hello there.");
  await other.context().close();
});

pageTest("without storage the page works and says what will be lost", async ({ page }) => {
  await page.addInitScript(() => {
    Object.defineProperty(window, "localStorage", { get: () => { throw new DOMException("blocked", "SecurityError"); } });
  });
  await page.reload();
  await ask(page, "hi");
  await shows(words(page), "Hello there.");
  await page.getByText("This browser's storage is full or switched off").waitFor();
});

pageTest("messages and code can be copied", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.token("See:\n\n```js\nlet a = 1;\n```\n");
    stream.done();
  };
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  await ask(page, "hi");
  await finished(page);
  await button(page, "Copy code").click();
  assert.equal(await clipboard(), "let a = 1;");
  await button(page, "Copy answer").click();
  assert.equal(await clipboard(), "See:\n\n```js\nlet a = 1;\n```\n");
  await page.locator(".question").hover();
  await button(page, "Copy message").click();
  assert.equal(await clipboard(), "hi");
});
