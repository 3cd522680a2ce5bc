// block.js: what kind of block a line of Markdown starts. Pure functions over one line.

/** Whether `line` is a table's second line: `| --- | :-: |`. */
export function isDelimiterRow(line) {
  return /^[\s|:-]+$/.test(line) && line.includes("|") && cellsOf(line).every((cell) => /^:?-+:?$/.test(cell));
}

/** An unfinished line that is only the beginning of a mark: better not drawn until it says what it is. */
export const HALF_MARK = /^\s*(?:[-*+#>`~|:]+|\d{1,9}[.)])\s*$/;

const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const FENCE = /^(\s*)(```+|~~~+)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
const QUOTE = /^ {0,3}> ?/;

/**
 * The block that `line` starts, or null for plain text. In the middle of a paragraph (`inText`) a number must
 * be 1 to start a list, so that a line that happens to begin with a year stays a line.
 */
export function blockStart(line, inText) {
  // Most lines start with a letter and are done here.
  if (!/^\s*[#>`~\-*+_\d]/.test(line)) return null;
  const fence = fenceStart(line);
  if (fence) return fence;
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: headingText(heading[2] ?? "") };
  if (RULE.test(line)) return { kind: "rule" };
  const quote = QUOTE.exec(line);
  if (quote) return { kind: "quote", length: quote[0].length };
  return itemStart(line, inText);
}

function fenceStart(line) {
  const fence = FENCE.exec(line);
  if (!fence) return null;
  const said = line.slice(fence[0].length);
  // With a backtick behind it, it is code inside a line.
  if (said.includes("`")) return null;
  return { kind: "fence", indent: fence[1].length, fence: fence[2], language: said.trim().split(/\s/, 1)[0].slice(0, 40) };
}

function itemStart(line, inText) {
  const item = ITEM.exec(line);
  if (!item) return null;
  const ordered = /\d/.test(item[2]);
  const number = ordered ? Number.parseInt(item[2], 10) : 0;
  if (inText && ordered && number !== 1 && item[1] === "") return null;
  // Much space after the mark belongs to the text, as in an indented block.
  const gap = item[3].length > 4 ? 1 : item[3].length;
  return { kind: "item", ordered, number, length: item[1].length + item[2].length + gap };
}

// Trailing hashes close a heading and are not part of it.
function headingText(text) {
  const trimmed = text.trim();
  let end = trimmed.length;
  while (end > 0 && trimmed[end - 1] === "#") end -= 1;
  return end === 0 || /\s/.test(trimmed[end - 1]) ? trimmed.slice(0, end).trim() : trimmed;
}

/** Whether `line` ends a block that `fence` opened. */
export function fenceEnds(line, fence) {
  const trimmed = line.trim();
  return trimmed.length >= fence.length && trimmed === fence[0].repeat(trimmed.length);
}

/** A line's leading space: how wide it is, and the line with at most `width` columns of it removed. */
export function indentOf(line) {
  const space = /^[ \t]*/.exec(line)[0];
  const flat = space.replaceAll("\t", "    ");
  return {
    width: flat.length,
    strip: (width) => flat.slice(Math.min(width, flat.length)) + line.slice(space.length),
  };
}

/** A table row's cells, trimmed. A bar after a back-slash is part of its cell. */
export function cellsOf(line) {
  const row = line.trim();
  const cells = [];
  let start = row.startsWith("|") ? 1 : 0;
  for (let at = start; at <= row.length; at += 1) {
    if (at < row.length && (row[at] !== "|" || row[at - 1] === "\\")) continue;
    cells.push(row.slice(start, at).trim().replaceAll("\\|", "|"));
    start = at + 1;
  }
  if (cells.length > 1 && row.endsWith("|") && !row.endsWith("\\|")) cells.pop();
  return cells;
}

/** Where to cut a line of `text` that is too long: before a space where there is one, never inside a surrogate pair. */
export function cutBefore(text, start, end) {
  const space = text.lastIndexOf(" ", end);
  if (space > start + (end - start) / 2) return space;
  const unit = text.charCodeAt(end);
  return unit >= 0xdc00 && unit <= 0xdfff ? end - 1 : end;
}
