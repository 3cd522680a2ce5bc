// models.test.js: the model picker: groups, loading with progress, unloading, and models that cannot be used.

import assert from "node:assert/strict";
import { ask, finished, lastAnswer, pageTest, shows, useBrowser } from "./harness.js";

useBrowser();

const chip = (page) => page.getByRole("button", { name: /^Model: / });
const row = (page, name) => page.locator("#model-list .model", { hasText: name });

pageTest("the default model is chosen, and all are grouped with their facts", async ({ page }) => {
  await shows(chip(page), "sft/demo");
  await chip(page).click();
  assert.deepEqual(await page.locator("#model-list h3").allInnerTexts(), ["Pretrained", "SFT", "RL", "Unknown"]);
  assert.deepEqual(await page.locator("#model-list .name").allInnerTexts(), ["pretrain/best.pt", "sft/broken", "sft/demo", "rl/demo", "world/odd"]);
  assert.equal(await row(page, "sft/demo").locator(".facts").innerText(), "4.87M parameters · 9.7 MB · on cpu · bf16 · context 1,024 · safetensors · 2026-11-20 10:30");
  assert.match(await row(page, "pretrain/best.pt").locator(".facts").innerText(), /^685B parameters · 1\.8 GB/);
  assert.equal(await row(page, "sft/demo").locator(".state").innerText(), "Loaded");
});

pageTest("a model that cannot be used is shown with its reason", async ({ page }) => {
  await chip(page).click();
  assert.equal(await row(page, "sft/broken").locator(".trouble").innerText(), "`model.safetensors`: the header is cut short");
  assert.equal(await row(page, "sft/broken").locator(".state").innerText(), "Cannot be used");
  assert.ok(await row(page, "sft/broken").locator(".pick").isDisabled());
});

pageTest("a chosen model whose files broke gives way to the default, and one whose loading failed does not", async ({ page, fake }) => {
  const choose = async (name) => {
    fake.loading = [];
    await chip(page).click();
    await row(page, name).locator(".pick").click();
    await shows(row(page, name).locator(".state"), /^Loaded$/);
    await page.reload();
    await shows(chip(page), name);
  };
  await choose("world/odd");
  Object.assign(fake.models["world/odd"], { status: "error", usable: false, error: "`config.json`: not valid JSON" });
  await page.reload();
  await shows(chip(page), "sft/demo");
  await ask(page, "hi");
  await finished(page);
  assert.equal(fake.asked[0].model, "sft/demo");
  await choose("rl/demo");
  Object.assign(fake.models["rl/demo"], { status: "error", error: "the model needs 14.35 GB, 1.24 GB are free" });
  await page.reload();
  await shows(chip(page), "rl/demo");
  await shows(chip(page), "Loading failed");
  await chip(page).click();
  assert.ok(await row(page, "rl/demo").locator(".pick").isEnabled());
});

pageTest(
  "a default model that is broken gives way to one that is not",
  async ({ page }) => shows(chip(page), "rl/demo"),
  { setup: (fake) => {
    fake.models = { "sft/demo": { ...fake.models["sft/demo"], status: "error", usable: false, error: "broken" }, "rl/demo": fake.models["rl/demo"] };
  } },
);

pageTest("choosing a model loads it with progress, and the next question goes to it", async ({ page, fake }) => {
  fake.loading = [0.25, 0.25, 0.75, 0.75];
  await chip(page).click();
  await row(page, "rl/demo").locator(".pick").click();
  await shows(row(page, "rl/demo").locator(".state"), "Loading 25 %");
  const bar = page.getByRole("progressbar", { name: "Loading rl/demo" });
  assert.equal(await bar.evaluate((node) => node.value), 0.25);
  await shows(row(page, "rl/demo").locator(".state"), /^Loaded$/);
  await page.keyboard.press("Escape");
  await shows(chip(page), "rl/demo");
  await ask(page, "hi");
  await finished(page);
  assert.equal(fake.asked[0].model, "rl/demo");
  assert.ok(fake.requests.some(({ url }) => url === "/api/models/rl%2Fdemo/load"), "the name travels as one segment");
  await page.reload();
  await shows(chip(page), "rl/demo");
});

pageTest("a load that goes on is followed after a reload", async ({ page, fake }) => {
  fake.loading = Array.from({ length: 5 }, () => 0.5);
  await chip(page).click();
  await row(page, "rl/demo").locator(".pick").click();
  await shows(row(page, "rl/demo").locator(".state"), "Loading");
  await page.reload();
  await shows(chip(page), "Loading 50 %");
  await page.locator("#model-chip[data-status=loaded]").waitFor();
});

pageTest("a load that is refused or fails is told at the model and can be tried again", async ({ page, fake }) => {
  fake.loadRefusal = { status: 503, body: { error: "rl/demo needs 9 GiB and 2 GiB are free", code: "no_memory" } };
  await chip(page).click();
  await row(page, "rl/demo").locator(".pick").click();
  await shows(row(page, "rl/demo").locator(".trouble"), "rl/demo needs 9 GiB and 2 GiB are free");
  fake.loadRefusal = null;
  fake.loading = [];
  await row(page, "rl/demo").locator(".pick").click();
  await shows(row(page, "rl/demo").locator(".state"), /^Loaded$/);
  assert.equal(await row(page, "rl/demo").locator(".trouble").count(), 0);
});

pageTest("Unload frees a model", async ({ page, fake }) => {
  await chip(page).click();
  await page.getByRole("button", { name: "Unload sft/demo" }).click();
  await shows(row(page, "sft/demo").locator(".state"), "Not loaded");
  assert.equal(fake.models["sft/demo"].status, "not_loaded");
});

pageTest("unloading what another page has unloaded is told", async ({ page, fake }) => {
  await chip(page).click();
  fake.models["sft/demo"].status = "not_loaded";
  await page.getByRole("button", { name: "Unload sft/demo" }).click();
  await page.getByText("Model sft/demo is not loaded").waitFor();
});

pageTest("a chosen model that is gone gives way to the default", async ({ page, fake }) => {
  fake.loading = [];
  await chip(page).click();
  await row(page, "world/odd").locator(".pick").click();
  await shows(row(page, "world/odd").locator(".state"), /^Loaded$/);
  delete fake.models["world/odd"];
  await page.reload();
  await shows(chip(page), "sft/demo");
});

pageTest(
  "a server without models says what to do",
  async ({ page }) => {
    await chip(page).click();
    await page.getByText("The server has no models.").waitFor();
    await shows(chip(page), "No model");
  },
  { setup: (fake) => (fake.models = {}) },
);

pageTest("a server that is gone is told in the picker, with a way to try again", async ({ page, fake }) => {
  await shows(chip(page), "sft/demo");
  await fake.stop();
  await chip(page).click();
  await page.getByRole("alert").getByText("The server cannot be reached.").waitFor();
  assert.ok(await page.getByRole("button", { name: "Try again" }).isVisible());
});

pageTest("the picker works from the keyboard", async ({ page, fake }) => {
  fake.loading = [];
  await chip(page).focus();
  await page.keyboard.press("Enter");
  await page.locator("#models[open]").waitFor();
  await row(page, "rl/demo").locator(".pick").focus();
  await page.keyboard.press("Enter");
  await shows(row(page, "rl/demo").locator(".state"), /^Loaded$/);
  assert.ok(await row(page, "rl/demo").locator(".pick").evaluate((node) => node === document.activeElement), "focus stays");
  await page.keyboard.press("Escape");
  await shows(chip(page), "rl/demo");
  assert.ok(await chip(page).evaluate((node) => node === document.activeElement), "focus comes back");
});

pageTest("names of any kind are text and find their model", async ({ page, fake }) => {
  const name = 'rl/<img src=x onerror="alert(1)"> 100% ü?#';
  fake.models[name] = { ...fake.models["rl/demo"] };
  fake.loading = [];
  await chip(page).click();
  await row(page, name).locator(".pick").click();
  await shows(row(page, name).locator(".state"), /^Loaded$/);
  await page.keyboard.press("Escape");
  await ask(page, "hi");
  await shows(lastAnswer(page).locator(".stats"), name);
});

pageTest("an API key that is entered brings the models", async ({ page, fake }) => {
  fake.key = "secret";
  await page.reload();
  await shows(chip(page), "No model");
  await chip(page).click();
  await page.getByRole("alert").getByText("an API key is needed").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByLabel("API key").fill("secret");
  await page.keyboard.press("Escape");
  await shows(chip(page), "sft/demo");
});
