// One file: what it held, how it was learned, what was not used of it, and forgetting it.

import { get } from "./ask.js";
import { agree, button, facts, redraw } from "./bits.js";
import { fill, h, sentence } from "./dom.js";
import { badRowsShown } from "./preview.js";
import { stateOf } from "./telling.js";
import { bytes, capital, count, duration, loss, share, when } from "./words.js";

const FORGETTABLE = new Set(["arrived", "archived", "ready", "training", "skipped", "trained", "learned", "set_aside"]);

const NEVER = new Set(["rejected", "duplicate", "forgotten"]);

/** The view of one file at a time. `changed()` is called after it was forgotten. */
export class FileView {
  constructor({ changed }) {
    this.changed = changed;
    this.node = h("article", { class: "file", hidden: true, "aria-busy": "false" });
    this.id = null;
    this.drawn = "";
  }

  close() {
    this.id = null;
    fill(this.node);
  }

  async open(id) {
    this.id = id;
    this.drawn = "";
    fill(this.node, back(), h("p", { class: "soft" }, "Looking …"));
    await this.again();
    this.node.querySelector("h1")?.focus({ preventScroll: true });
  }

  /** Ask again, as something changed. */
  async again() {
    const id = this.id;
    if (id === null) return;
    try {
      const found = await get(`/api/files/${id}`);
      const drawn = JSON.stringify(found);
      if (id !== this.id || drawn === this.drawn) return; // what is being read or pressed is not put anew
      this.drawn = drawn;
      redraw(this.node, back(), this.shown(found));
    } catch (error) {
      this.drawn = "";
      if (id === this.id) fill(this.node, back(), h("p", { class: "note trouble" }, sentence(error.message)), button("Try again", () => this.again()));
    }
  }

  shown(found) {
    const { file } = found;
    return [
      h("h1", { class: "name", tabindex: "-1", dataset: { key: "title" } }, file.name),
      h("p", { class: "file-state" }, h("span", { class: file.state === "training" ? "tag now" : file.state === "rejected" ? "tag trouble" : "tag" }, stateOf(file.state)), h("span", { class: "soft" }, `File ${file.id}, came ${when(file.arrived_at)}${file.learned_at ? `, learned ${when(file.learned_at)}` : ""}`)),
      reason(found),
      h("div", { class: "columns" }, this.held(found), this.effect(found)),
      learnt(found.learnt),
      found.bad_rows.length ? h("section", { class: "sheet" }, h("h2", null, "Rows that are not used"), badRowsShown(found.bad_rows, found.bad_rows_left_out)) : null,
      settings(found.settings),
      this.forgetting(file),
    ];
  }

  held({ file, shape, sequences, archive, rejected, sha256 }) {
    const twin = file.duplicate_of && h("a", { href: `#${file.duplicate_of}` }, `file ${file.duplicate_of}`);
    return h("section", { class: "sheet" }, h("h2", null, "What it holds"), facts(
      ["Size", file.bytes !== null && bytes(file.bytes)],
      ["Kind of rows", shape],
      ["Good rows", file.rows !== null && count(file.rows)],
      ["Bad rows", file.rows_bad !== null && count(file.rows_bad)],
      ["Tokens", file.tokens !== null && count(file.tokens)],
      ["Tokens learned", file.label_tokens !== null && file.tokens ? `${count(file.label_tokens)}, ${share(file.label_tokens, file.tokens)}` : ""],
      ["Sequences", sequences !== null && count(sequences)],
      ["Priority", file.priority],
      ["Same bytes as", twin],
      ["Kept as", archive && h("code", null, archive)],
      ["Set aside as", rejected && h("code", null, rejected)],
      ["SHA-256", sha256 && h("code", { title: sha256 }, `${sha256.slice(0, 16)}…`)],
    ));
  }

  effect({ file, learnt }) {
    const first = learnt[0];
    const last = learnt.at(-1);
    const held = file.holdout_rows
      ? facts(
          ["Before its first step", loss(file.holdout_before)],
          ["After its last step", file.holdout_after === null ? "not yet" : loss(file.holdout_after)],
          ["Measured on", `${count(file.holdout_rows, "row")}, never trained on`],
        )
      : h("p", { class: "soft" }, "No rows of this file are held out.");
    return h("section", { class: "sheet" },
      h("h2", null, "What was learned"),
      first ? facts(
        ["Loss over its first steps", loss(first.loss_first)],
        ["Loss over its last steps", loss(last.loss_last)],
        ["Steps", `${count(learnt.reduce((sum, one) => sum + one.steps_done, 0))} of ${count(learnt.reduce((sum, one) => sum + one.steps, 0))}`],
        ["Time", total(learnt)],
      ) : h("p", { class: "soft" }, NEVER.has(file.state) ? "Nothing: it was not trained." : "It is not trained yet."),
      h("h3", null, "Loss on held-out rows"), held,
      first || file.holdout_rows ? h("p", { class: "soft small" }, "Loss in nats per learned token; lower is better.") : null);
  }

  forgetting(file) {
    if (!FORGETTABLE.has(file.state)) return null;
    const forget = async (purge) => {
      const body = () => ({ files: [file.id], purge });
      const done = await agree({
        path: "/api/forget", body, forgetting: true,
        title: purge ? `Forget ${file.name}, and remove all that has seen it?` : `Forget ${file.name}?`,
        action: purge ? "Forget and remove" : "Forget it",
      });
      if (!done) return;
      this.changed();
      this.again();
    };
    return h("section", { class: "sheet forget" },
      h("h2", null, "Forget it"),
      h("p", null, "The model becomes, bit for bit, the one that never saw this file: the run goes back to before it, and what came later is trained again. You see what that undoes and how long it takes before anything happens."),
      h("div", { class: "actions" },
        button("Forget …", () => forget(false), { class: "danger", dataset: { key: "forget" } }),
        button("Forget and remove its bytes …", () => forget(true), { class: "danger", dataset: { key: "purge" } })));
  }
}

function back() {
  return h("p", { class: "back" }, h("a", { href: "#", dataset: { key: "back" } }, "Back to all files"));
}

function total(learnt) {
  const known = learnt.filter((one) => one.seconds !== null);
  return known.length === learnt.length ? duration(known.reduce((sum, one) => sum + one.seconds, 0)) : "";
}

function reason({ file, what_to_do }) {
  if (!file.reason && !what_to_do) return null;
  const words = [file.reason && h("p", null, sentence(capital(file.reason))), what_to_do && h("p", null, h("strong", null, "What to do: "), sentence(what_to_do))];
  return h("div", { class: file.state === "rejected" ? "note trouble" : "note" }, words);
}

function learnt(ranges) {
  if (!ranges.length) return null;
  const line = (one) =>
    h("tr", null,
      h("td", { "data-what": "Steps" }, `${count(one.first)} to ${count(one.last)}`, one.alone ? null : h("span", { class: "soft" }, ", with other small files")),
      h("td", { class: "num", "data-what": "Done" }, `${count(one.steps_done)} of ${count(one.steps)}`),
      h("td", { class: "num", "data-what": "Tokens" }, count(one.tokens)),
      h("td", { class: "num", "data-what": "Time" }, duration(one.seconds)),
      h("td", { class: "num", "data-what": "Loss, first to last" }, `${loss(one.loss_first)} → ${loss(one.loss_last)}`),
      h("td", { class: "num soft", "data-what": "Began" }, when(one.began_at)));
  const heads = ["Steps", "Done", "Tokens", "Time", "Loss, first → last", "Began"];
  return h("section", { class: "sheet" },
    h("h2", null, "When it was trained"),
    h("table", { class: "rows stack" },
      h("thead", null, h("tr", null, heads.map((word, at) => h("th", { scope: "col", class: at ? "num" : "" }, word)))),
      h("tbody", null, ranges.map(line))));
}

function settings(given) {
  const all = Object.entries(given);
  if (!all.length) return null;
  const shown = all.map(([name, value]) => [name, h("code", null, typeof value === "string" ? value : JSON.stringify(value))]);
  return h("section", { class: "sheet" }, h("h2", null, "Settings that came with it"), facts(...shown));
}
