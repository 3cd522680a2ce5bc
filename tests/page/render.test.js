// render.test.js: render.js alone: what Markdown becomes, that growing and finished text look the same in the end,
// that nothing hostile becomes markup, and that time is linear.

import assert from "node:assert/strict";
import { pageTest, useBrowser } from "./harness.js";

useBrowser();

// The rendered HTML without what is the same in every code block or link.
const render = (page, text, size = 0) =>
  page.evaluate(
    async ([source, step]) => {
      const { Markdown } = await import("/assets/render.js");
      const root = document.createElement("div");
      const markdown = new Markdown(root);
      for (let at = 0; at < source.length; at += step || source.length) markdown.push(source.slice(at, at + (step || source.length)));
      markdown.finish();
      for (const head of root.querySelectorAll(".code-head")) head.remove();
      return root.innerHTML
        .replaceAll(/ (target|rel|tabindex)="[^"]*"/g, "")
        .replaceAll(/<div class="(code|table)">(.*?)<\/div>/gs, "$2");
    },
    [text, size],
  );

const CASES = [
  ["a plain line", "Hello <b>world</b> & co", "<p>Hello &lt;b&gt;world&lt;/b&gt; &amp; co</p>"],
  ["line breaks and paragraphs", "one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"],
  ["headings", "# One\ntext\n### Three ###\n####### seven", "<h3>One</h3><p>text</p><h5>Three</h5><p>####### seven</p>"],
  ["strong and emphasis", "**a** *b* ***c*** __d__ _e_ ~~f~~", "<p><strong>a</strong> <em>b</em> <strong><em>c</em></strong> <strong>d</strong> <em>e</em> <del>f</del></p>"],
  ["nested marks", "**a *b* c** and *a **b** c*", "<p><strong>a <em>b</em> c</strong> and <em>a <strong>b</strong> c</em></p>"],
  ["marks that are none", "2 * 3 * 4, snake_case_name, a ** b, ****", "<p>2 * 3 * 4, snake_case_name, a ** b, ****</p>"],
  ["unclosed marks", "**a and *b", "<p>**a and *b</p>"],
  ["escapes", "\\*a\\* \\[b\\] c:\\d", "<p>*a* [b] c:\\d</p>"],
  ["inline code", "`a*b*` ``x ` y`` `open", "<p><code>a*b*</code> <code>x ` y</code> `open</p>"],
  ["a list", "- a\n- b\n  c\n- d", "<ul><li><p>a</p></li><li><p>b<br>c</p></li><li><p>d</p></li></ul>"],
  ["a nested list", "1. a\n   - x\n   - y\n2. b", "<ol><li><p>a</p><ul><li><p>x</p></li><li><p>y</p></li></ul></li><li><p>b</p></li></ol>"],
  ["a list indented by two", "1. a\n  - x\n2. b", "<ol><li><p>a</p><ul><li><p>x</p></li></ul></li><li><p>b</p></li></ol>"],
  ["a list with gaps and what follows", "- a\n\n- b\n\nend", "<ul><li><p>a</p></li><li><p>b</p></li></ul><p>end</p>"],
  ["a list from another number", "3. c\n4. d", '<ol start="3"><li><p>c</p></li><li><p>d</p></li></ol>'],
  ["a year is no list", "It was in\n1986. A good year", "<p>It was in<br>1986. A good year</p>"],
  ["kinds of list side by side", "- a\n1. b", "<ul><li><p>a</p></li></ul><ol><li><p>b</p></li></ol>"],
  ["a quote after a list", "- a\n> q", "<ul><li><p>a</p></li></ul><blockquote><p>q</p></blockquote>"],
  ["a quote", "> a\n> b\nc\n\nd", "<blockquote><p>a<br>b<br>c</p></blockquote><p>d</p>"],
  ["a list in a quote", "> - a\n> - b", "<blockquote><ul><li><p>a</p></li><li><p>b</p></li></ul></blockquote>"],
  ["fenced code", "```js\nlet a = `<b>`;\n\n  b\n```\nafter", "<pre><code>let a = `&lt;b&gt;`;\n\n  b</code></pre><p>after</p>"],
  ["a fence without end", "~~~\n# a\n```", "<pre><code># a\n```</code></pre>"],
  ["a fence in a list", "- a\n  ```\n  x\n    y\n  ```\n- b", "<ul><li><p>a</p><pre><code>x\n  y</code></pre></li><li><p>b</p></li></ul>"],
  ["a rule", "a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"],
  ["a table", "| a | b |\n|---|:-:|\n| 1 | **2** |\n\nend", '<table><thead><tr><th>a</th><th class="center">b</th></tr></thead><tbody><tr><td>1</td><td class="center"><strong>2</strong></td></tr></tbody></table><p>end</p>'],
  ["a table after a line", "See:\na | b\n--|--:\n1 | x \\| y", '<p>See:</p><table><thead><tr><th>a</th><th class="end">b</th></tr></thead><tbody><tr><td>1</td><td class="end">x | y</td></tr></tbody></table>'],
  ["a bar alone is no table", "a | b\nc | d", "<p>a | b<br>c | d</p>"],
  ["links", "[a *b*](https://example.org/x(1)) <https://example.org> https://example.org/y.", '<p><a href="https://example.org/x(1)">a <em>b</em></a> &lt;<a href="https://example.org/">https://example.org</a>&gt; <a href="https://example.org/y">https://example.org/y</a>.</p>'],
  ["mail", "[write](mailto:a@example.org)", '<p><a href="mailto:a@example.org">write</a></p>'],
  ["an image is a link", "![alt](https://example.org/a.png)", '<p><a href="https://example.org/a.png">alt</a></p>'],
  ["windows line ends", "a\r\n\r\n- b\r\n", "<p>a</p><ul><li><p>b</p></li></ul>"],
  ["emoji and other planes", "👩‍👩‍👧 𝒳 **深海**", "<p>👩‍👩‍👧 𝒳 <strong>深海</strong></p>"],
];

pageTest("Markdown becomes what it says, whole or one character at a time", async ({ page }) => {
  for (const [name, source, expected] of CASES) {
    assert.equal(await render(page, source), expected, name);
    for (const size of [1, 2, 3, 7]) assert.equal(await render(page, source, size), expected, `${name}, ${size} at a time`);
  }
});

const HOSTILE = [
  "<img src=x onerror=alert(1)>",
  "<script>alert(1)</script>",
  "[a](javascript:alert(1))",
  "[a](JaVaScRiPt:alert(1))",
  "[a](java\tscript:alert(1))",
  "[a](data:text/html,<script>alert(1)</script>)",
  "[a](vbscript:x)",
  "[a](//example.org)",
  "[a](file:///etc/passwd)",
  "![x](javascript:alert(1))",
  "<a href=javascript:alert(1)>x</a>",
  "```<img src=x onerror=alert(1)>\n<script>\n```",
  "# <svg onload=alert(1)>",
  "| <img src=x> | b |\n|---|---|\n| <iframe> | [x](javascript:1) |",
  '[a](https://example.org/"onmouseover="alert(1))',
  "[<img src=x onerror=alert(1)>](https://example.org)",
];

pageTest("hostile text stays text", async ({ page }) => {
  const found = await page.evaluate(async (sources) => {
    const { renderMarkdown } = await import("/assets/render.js");
    const root = document.createElement("div");
    document.body.append(root);
    sources.forEach((source) => renderMarkdown(root.appendChild(document.createElement("div")), source));
    const elements = [...root.querySelectorAll("*")];
    root.remove();
    return {
      tags: [...new Set(elements.map((node) => node.localName))],
      handlers: elements.flatMap((node) => [...node.attributes]).filter((attribute) => attribute.name.startsWith("on")).length,
      targets: elements.filter((node) => node.hasAttribute("href")).map((node) => new URL(node.href).protocol),
      rels: elements.filter((node) => node.localName === "a").every((node) => node.rel.includes("noopener")),
    };
  }, HOSTILE);
  for (const bad of ["img", "script", "iframe", "object"]) assert.ok(!found.tags.includes(bad), bad);
  // The only drawings are the copy buttons' own.
  assert.equal(found.handlers, 0);
  assert.ok(found.rels);
  assert.deepEqual([...new Set(found.targets)], ["https:"]);
});

// Each is grown to two sizes; the time may grow with the size, not with its square.
const LARGE = {
  "opening brackets": "[",
  "half links": "[a](",
  "link ends": "](a",
  stars: "*a ",
  "double stars": "**a",
  "odd runs": "a**b*c_",
  backticks: "`a``b```c",
  "quote marks": "> ",
  "list marks": "- ",
  "numbered lines": "1. a\n",
  "deeper and deeper": "  - a\n",
  bars: "|a|b\n|-|-\n",
  "one long table row": "|a",
  fences: "```\n~~~\n",
  backslashes: "\\",
  addresses: "https://a",
  tildes: "~~~ `",
  dashes: "- - - x\n",
  spaces: "                ",
  prose: "The lamp was **lit**. The fox [read](https://example.org) on.\n",
};

pageTest("time grows with the length, for any text", async ({ page }) => {
  const slow = await page.evaluate(async (patterns) => {
    const { renderMarkdown } = await import("/assets/render.js");
    const time = (text) => {
      const start = performance.now();
      renderMarkdown(document.createElement("div"), text);
      return performance.now() - start;
    };
    const bad = [];
    for (const [name, pattern] of Object.entries(patterns)) {
      const text = (chars) => pattern.repeat(Math.ceil(chars / pattern.length));
      time(text(20_000));
      // The best of three: what else runs on the machine only ever adds.
      const best = (chars) => Math.min(...[1, 2, 3].map(() => time(text(chars))));
      const [small, large] = [best(100_000), best(800_000)];
      // Eight times the text: a quadratic one would take sixty-four times as long.
      if (large > 6000 || (large > 500 && large > 40 * small)) bad.push(`${name}: ${small.toFixed()} ms, ${large.toFixed()} ms`);
    }
    return bad;
  }, LARGE);
  assert.deepEqual(slow, []);
});

pageTest("a growing answer costs no more at its end than at its beginning", async ({ page }) => {
  const ratio = await page.evaluate(async () => {
    const { Markdown } = await import("/assets/render.js");
    const piece = "The lamp was **lit** and `the fox` read on. ";
    const markdown = new Markdown(document.createElement("div"));
    const run = () => {
      const start = performance.now();
      for (let i = 0; i < 1000; i += 1) markdown.push(i % 20 === 19 ? "\n\n- " : piece);
      return performance.now() - start;
    };
    run();
    const early = run();
    for (let i = 0; i < 8; i += 1) run();
    return run() / early;
  });
  assert.ok(ratio < 4, `the last thousand pieces took ${ratio.toFixed(1)} times as long as the first`);
});
