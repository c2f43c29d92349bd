// What would become of a file, as `nightschool preview` shows it: amounts, lengths, bad rows, the first sequences.

import { button, facts } from "./bits.js";
import { fill, h, sentence } from "./dom.js";
import { count, share } from "./words.js";

const CHARACTERS = 700; // of each row, until all of it is asked for
const PARTS = 4; // rows shown of the first sequences

/** The nodes of a Preview. */
export function previewShown(found) {
  return [amounts(found), lengths(found.lengths), badRows(found), examples(found)];
}

function amounts(found) {
  const held = found.rows_held_out ? `, ${count(found.rows_held_out)} of them held out to test with` : "";
  const repairs = Object.entries(found.repairs).map(([what, rows]) => `${what} in ${count(rows, "row")}`);
  const any = found.sequences > 0;
  return facts(
    ["Kind", [found.container, found.shape].filter(Boolean).join(", ")],
    ["Rows", `${count(found.rows_good)} good${held}`],
    ["Bad rows", found.rows_bad > 0 && `${count(found.rows_bad)}, not used`],
    ["Tokens", any && `${count(found.tokens)} in ${count(found.sequences, "sequence")}`],
    ["Learned", any && `${count(found.label_tokens, "token")}, ${share(found.label_tokens, found.tokens)} of them`],
    ["Training", any && count(found.steps, "step")],
    ["Too long", found.rows_truncated > 0 && `${count(found.rows_truncated, "row")}, ${count(found.tokens_cut, "token")} left out`],
    ["Split", found.rows_split > 0 && count(found.rows_split, "row")],
    ["Repaired", repairs.join("; ")],
  );
}

function lengths(groups) {
  if (!groups.length) return null;
  const most = Math.max(...groups.map(([, , rows]) => rows));
  const lines = groups.map(([first, last, rows]) =>
    h(
      "tr",
      null,
      h("th", { scope: "row" }, first === last ? count(first) : `${count(first)} to ${count(last)}`),
      h("td", null, h("span", { class: "histogram-bar", style: { "--share": `${(100 * rows) / most}%` } })),
      h("td", { class: "num" }, count(rows)),
    ),
  );
  const heads = h("tr", null, h("th", { scope: "col" }, "Tokens"), h("td"), h("th", { scope: "col" }, "Rows"));
  return h(
    "section",
    null,
    h("h4", null, "How long the rows are"),
    h("table", { class: "histogram" }, h("thead", null, heads), h("tbody", null, lines)),
  );
}

function badRows(found) {
  if (!found.bad_rows.length) return null;
  return h("section", null, h("h4", null, "Bad rows"), badRowsShown(found.bad_rows, found.rows_bad - found.bad_rows.length));
}

/** Rows that are not used, each with its reason and its beginning; `left` more are not shown. */
export function badRowsShown(rows, left) {
  const items = rows.map((bad) =>
    h(
      "li",
      null,
      h("p", null, h("strong", null, `Line ${count(bad.line)}: `), sentence(bad.reason)),
      bad.row ? h("code", { class: "row-text" }, bad.row) : null,
    ),
  );
  if (left > 0) items.push(h("li", { class: "soft" }, `and ${count(left)} more`));
  return h("ol", { class: "bad-rows" }, items);
}

function examples(found) {
  const shown = [];
  let left = PARTS;
  for (const [at, sequence] of found.examples.entries()) {
    if (left <= 0) break;
    const tokens = sequence.reduce((sum, part) => sum + part.tokens, 0);
    shown.push(h("h5", null, `Sequence ${at + 1}: ${count(tokens, "token")}, ${count(sequence.length, "row")}`));
    shown.push(sequence.slice(0, left).map(partShown));
    const rest = sequence.length - left;
    if (rest > 0) shown.push(h("p", { class: "soft" }, `and ${count(rest, "more row", "more rows")} in it`));
    left -= sequence.length;
  }
  if (!shown.length) return null;
  const key = h("p", { class: "soft" }, "The model learns to write what is ", h("mark", null, "lit and underlined"), "; the rest it only reads.");
  return h("section", { class: "examples" }, h("h4", null, "What the model sees first"), key, shown);
}

function partShown(part) {
  const title = `Row ${count(part.row)}: ${count(part.learned)} of ${count(part.tokens, "token")} learned`;
  const text = h("p", { class: "sequence", tabindex: "0", role: "group", "aria-label": title });
  const whole = part.pieces.reduce((sum, piece) => sum + piece.text.length, 0);
  const more = button("Show all of this row", () => {
    fill(text, pieces(part.pieces, Infinity));
    more.remove();
    text.focus();
  }, { class: "link" });
  fill(text, pieces(part.pieces, CHARACTERS));
  return h("div", { class: "part" }, h("p", { class: "part-title" }, title), text, whole > CHARACTERS ? more : null);
}

function pieces(all, most) {
  const found = [];
  let left = most;
  for (const piece of all) {
    if (left <= 0) break;
    const text = piece.text.length > left ? `${piece.text.slice(0, left)} …` : piece.text;
    found.push(h(piece.learned ? "mark" : "span", null, text));
    left -= piece.text.length;
  }
  return found;
}
