// looks.test.js: colours, small screens, the keyboard and assistive technology.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { ask, finished, input, pageTest, shows, useBrowser } from "./harness.js";

useBrowser();

const axePath = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

const RICH = "# Under water\n\nThe **hadal** zone:\n\n1. is *deep*\n2. is `dark`\n\n> Quiet.\n\n| depth | zone |\n|---|--:|\n| 6,000 m | hadal |\n\n```rust\nfn main() { let a_rather_long_line = \"that goes on and on and on and on and on and on and on\"; }\n```\n\nAWordThatGoesOn".padEnd(700, "OnAndOn");

async function fill(page, fake) {
  fake.answer = async (stream) => {
    stream.token(RICH);
    stream.done();
  };
  await ask(page, `Tell me of the deep. ${"x".repeat(200)}`);
  await finished(page);
}

// Runs axe over what is visible and gives each finding in a line. It is put in by the debugger, past the policy.
async function findings(page) {
  const session = await page.context().newCDPSession(page);
  const { readFile } = await import("node:fs/promises");
  await session.send("Runtime.evaluate", { expression: await readFile(axePath, "utf8") });
  const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target} ${node.failureSummary}`));
}

for (const colorScheme of ["light", "dark"]) {
  pageTest(
    `axe finds nothing in ${colorScheme}, in any state`,
    async ({ page, fake }) => {
      await page.emulateMedia({ reducedMotion: "reduce" });
      assert.deepEqual(await findings(page), [], "empty page");
      await fill(page, fake);
      assert.deepEqual(await findings(page), [], "conversation");
      fake.refusal = { status: 429, body: { error: "the queue is full", code: "queue_full" } };
      await ask(page, "more");
      await finished(page);
      assert.deepEqual(await findings(page), [], "error");
      for (const name of [/^Model: /, /^Settings$/, /^Chats$/]) {
        await page.getByRole("button", { name }).click();
        await page.locator("dialog[open]").waitFor();
        assert.deepEqual(await findings(page), [], String(name));
        await page.keyboard.press("Escape");
      }
    },
    { context: { colorScheme } },
  );
}

const background = (page) => page.evaluate(() => getComputedStyle(document.querySelector(".box")).backgroundColor);

pageTest("the colours follow the system until the button says otherwise, and that is kept", async ({ page }) => {
  await page.emulateMedia({ colorScheme: "light" });
  const light = await background(page);
  await page.emulateMedia({ colorScheme: "dark" });
  const dark = await background(page);
  assert.notEqual(light, dark);
  await page.getByRole("button", { name: "Dark or light" }).click();
  assert.equal(await background(page), light);
  await page.reload();
  assert.equal(await background(page), light);
  await page.getByRole("button", { name: "Dark or light" }).click();
  assert.equal(await background(page), dark);
});

async function assertFits(page, what) {
  const [wide, over] = await page.evaluate(() => {
    const nodes = [...document.querySelectorAll("body, header, header *, #scroller, .turn, .turn > *, #composer, #composer *, dialog[open], dialog[open] .inside")];
    const off = nodes.filter((node) => node.checkVisibility() && node.getBoundingClientRect().right > innerWidth + 1 && !node.closest("pre, .table, .offscreen"));
    return [document.documentElement.scrollWidth, off.map((node) => node.id || node.className || node.localName)];
  });
  assert.ok(wide <= page.viewportSize().width, `${what}: ${wide} px wide`);
  assert.deepEqual(over, [], what);
  const inner = await page.locator("#scroller").evaluate((node) => node.scrollWidth - node.clientWidth);
  assert.ok(inner <= 0, `${what}: the conversation scrolls sideways by ${inner} px`);
}

for (const width of [375, 320]) {
  pageTest(
    `nothing scrolls sideways at ${width} px`,
    async ({ page, fake }) => {
      fake.models["sft/demo"].name = "x";
      fake.models[`sft/${"a-very-long-name-".repeat(6)}`] = { ...fake.models["rl/demo"] };
      await assertFits(page, "empty page");
      await fill(page, fake);
      await assertFits(page, "conversation");
      for (const name of [/^Model: /, /^Settings$/, /^Chats$/]) {
        await page.getByRole("button", { name }).click();
        await page.locator("dialog[open]").waitFor();
        await assertFits(page, String(name));
        const sideways = await page.locator("dialog[open]").evaluate((node) => node.scrollWidth - node.clientWidth);
        assert.ok(sideways <= 0, `${name} scrolls sideways`);
        await page.keyboard.press("Escape");
      }
      const small = await page.locator("header button, #send").evaluateAll((nodes) => nodes.filter((node) => node.getBoundingClientRect().height < 36).length);
      assert.equal(small, 0, "buttons are large enough for a finger");
    },
    { context: { viewport: { width, height: 667 }, hasTouch: true, isMobile: true } },
  );
}

pageTest("Enter sends, Shift and Enter begins a line, and an empty message is not sent", async ({ page, fake }) => {
  await input(page).press("Enter");
  await input(page).pressSequentially("one");
  await input(page).press("Shift+Enter");
  await input(page).pressSequentially("two");
  await input(page).press("Enter");
  await finished(page);
  assert.deepEqual(fake.asked.map(({ message }) => message), ["one\ntwo"]);
  assert.ok(await input(page).evaluate((node) => node === document.activeElement), "the cursor stays in the field");
});

pageTest("Enter that ends a composition does not send", async ({ page, fake }) => {
  await input(page).fill("にほん");
  await input(page).dispatchEvent("keydown", { key: "Enter", isComposing: true, bubbles: true });
  assert.equal(fake.asked.length, 0);
});

pageTest("every control is reached by Tab and shows it", async ({ page }) => {
  await page.locator("body").evaluate(() => document.activeElement.blur());
  const seen = [];
  for (let i = 0; i < 16; i += 1) {
    await page.keyboard.press("Tab");
    seen.push(await page.evaluate(() => {
      const node = document.activeElement;
      const style = getComputedStyle(node);
      const box = node.closest(".box") ? getComputedStyle(node.closest(".box")).boxShadow !== "none" : false;
      return { body: node === document.body, name: node.getAttribute("aria-label") ?? node.textContent.trim(), visible: style.outlineStyle !== "none" || box };
    }));
  }
  const names = seen.map(({ name }) => name);
  for (const name of ["Skip to the message field", "Chats", "New chat", "Settings", "Dark or light", "Who are you?", "Message"]) assert.ok(names.includes(name), `${name} in ${names}`);
  assert.deepEqual(seen.filter(({ body, visible }) => !body && !visible), []);
});

pageTest("a growing answer is marked busy, and dialogs give the focus back", async ({ page, fake }) => {
  fake.answer = async (stream) => {
    stream.token("Wait");
    await stream.cancelled;
    stream.done({ finish_reason: "cancelled" });
  };
  await ask(page, "hi");
  await shows(page.locator(".answer[aria-busy=true]"), "Wait");
  await page.getByRole("button", { name: "Settings" }).click();
  // Esc belongs to the dialog while one is open.
  await page.keyboard.press("Escape");
  assert.equal(await page.locator(".answer[aria-busy=true]").count(), 1);
  assert.ok(await page.getByRole("button", { name: "Settings" }).evaluate((node) => node === document.activeElement));
  await page.keyboard.press("Escape");
  await finished(page);
  assert.equal(await page.locator(".answer[aria-busy=true]").count(), 0);
});

pageTest("nothing moves for those who asked for it", async ({ page, fake }) => {
  await page.emulateMedia({ reducedMotion: "reduce" });
  fake.answer = async (stream) => {
    await stream.closed;
  };
  await ask(page, "hi");
  await page.locator(".growing").waitFor();
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
});
