// Adding files: dropped on the page or chosen, sent one after the other, looked at, then added or thrown away.

import { get, post, remove } from "./ask.js";
import { act, button, choice, pressed } from "./bits.js";
import { complain } from "./dialog.js";
import { fill, h, put, sentence } from "./dom.js";
import { previewShown } from "./preview.js";
import { sending } from "./sending.js";
import { timeLeft } from "./telling.js";
import { bytes, clock, count, roughly } from "./words.js";

const ROWS = 200; // that are looked at first
const PRIORITIES = [
  ["now", "Now", "interrupts the file in training, which goes on afterwards"],
  ["high", "High", "before the normal ones"],
  ["normal", "Normal", ""],
  ["low", "Low", "after all others"],
];
let number = 0;

/** The part of the page that takes files. `added()` is called after each that was added. */
export function uploads({ added }) {
  const cards = h("div", { class: "cards" });
  const all = h("p", { class: "add-all", hidden: true });
  const picker = h("input", { type: "file", multiple: true, class: "picker", id: "picker", on: { change: picked } });
  const open = new Set();
  let sent = Promise.resolve();

  function picked() {
    take(picker.files);
    picker.value = "";
  }

  function take(files) {
    const alone = files.length === 1 && open.size === 0;
    for (const file of files) {
      const card = new Card(file, alone, { changed, added });
      open.add(card);
      cards.append(card.node);
      // One at a time: files that share the line would all take longer.
      sent = sent.then(() => card.send(alone));
    }
  }

  function changed() {
    for (const card of open) if (!card.node.isConnected) open.delete(card);
    const ready = [...open].filter((card) => card.ready);
    all.hidden = ready.length < 2;
    if (ready.length < 2) return;
    const click = async (event) => {
      event.currentTarget.disabled = true;
      for (const card of ready) await card.add();
    };
    fill(all, button(`Add all ${count(ready.length)}, each as it says`, click, { class: "primary" }));
  }

  addEventListener("beforeunload", (event) => {
    if ([...open].some((card) => card.sending)) event.preventDefault();
  });
  const label = h("label", { for: "picker", class: "picker-label" }, "Choose files");
  const hint = h("span", { class: "soft" }, h("span", { class: "by-mouse" }, "or drop them anywhere on this page. "), "They are shown first, and added only when you say so.");
  const node = h("section", { class: "adding waits", "aria-labelledby": "adding-title" },
    h("h2", { id: "adding-title" }, "Add files"), h("p", { class: "pick" }, picker, label, hint), all, cards);
  dropping(take);
  return node;
}

/** The whole page takes files that are dragged onto it. */
function dropping(take) {
  const veil = h("div", { class: "veil", hidden: true, "aria-hidden": "true" }, h("p", null, "Let go, and they are sent"));
  document.body.append(veil);
  let deep = 0;
  const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = (on) => {
    veil.hidden = !on;
  };
  addEventListener("dragenter", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    deep += 1;
    show(true);
  });
  addEventListener("dragover", (event) => files(event) && event.preventDefault());
  addEventListener("dragleave", (event) => {
    if (!files(event)) return;
    deep = Math.max(0, deep - 1);
    show(deep > 0);
  });
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    deep = 0;
    show(false);
    take(event.dataTransfer.files);
  });
}

/** One file on its way: waits, is sent, is looked at, and is added or thrown away. */
class Card {
  constructor(file, alone, { changed, added }) {
    this.file = file;
    this.changed = changed;
    this.added = added;
    this.sending = null;
    this.upload = null;
    this.ready = false;
    this.given = false; // whether it was cancelled before its turn
    this.number = number += 1;
    this.about = h("span", { class: "soft" }, bytes(file.size));
    this.inside = h("div", { class: "card-inside" });
    this.node = h("article", { class: alone ? "card alone-card" : "card", "aria-label": file.name },
      h("header", null, h("h3", { class: "name" }, file.name), this.about), this.inside);
    fill(this.inside, h("p", { class: "soft reading" }, "Waits for its turn. ", button("Cancel", () => this.giveUp(), { class: "plain" })));
  }

  giveUp() {
    this.given = true;
    this.sending?.cancel();
    this.gone();
  }

  gone() {
    this.node.remove();
    this.changed();
  }

  async send(alone) {
    if (this.given) return;
    const bar = h("progress", { max: Math.max(1, this.file.size), value: 0, "aria-label": `${this.file.name}: bytes sent` });
    const words = h("span", { class: "soft" }, "Being sent");
    fill(this.inside, bar, h("p", { class: "sending" }, words, button("Cancel", () => this.giveUp(), { class: "plain" })));
    this.sending = sending(this.file, (sent, total, seconds) => {
      bar.value = sent;
      const left = timeLeft(sent, total, seconds);
      const time = sent >= total ? ", being written to the disk" : left === null ? "" : `, about ${roughly(left)} left`;
      put(words, `${bytes(sent)} of ${bytes(total)}${time}`);
    });
    try {
      this.upload = await this.sending.done;
    } catch (error) {
      this.failed(error, () => this.send(alone));
      return;
    } finally {
      this.sending = null;
    }
    if (this.upload !== null) await this.look(ROWS, alone);
  }

  failed(error, again) {
    const retry = button("Try again", again);
    fill(this.inside, h("p", { class: "trouble", role: "alert" }, sentence(error.message)),
      h("div", { class: "actions" }, button("Leave it", () => this.throwAway(), { class: "plain" }), retry));
    retry.focus();
  }

  async look(rows, open) {
    put(this.about, `${bytes(this.upload.bytes)}, ${this.upload.looks_like}`);
    fill(this.inside, h("p", { class: "soft reading" }, "Is being read …"));
    try {
      this.show(await get(`/api/uploads/${encodeURIComponent(this.upload.id)}/preview`, { rows }), open);
    } catch (error) {
      this.failed(error, () => this.look(rows, open));
    }
  }

  show(found, open) {
    this.ready = !found.problem;
    const warnings = [...new Set([...this.upload.warnings, ...found.warnings])];
    const rows = `${count(found.rows_good, "good row")}${found.rows_bad ? `, ${count(found.rows_bad)} bad` : ""}`;
    const line = `${rows}, ${count(found.tokens, "token")}: ${count(found.steps, "step")}`;
    const part = `Only the first ${count(found.rows_good + found.rows_bad, "row")} were read. `;
    const look = h("details", { class: "look", open }, h("summary", null, "What the model would see of it"), previewShown(found));
    fill(
      this.inside,
      h("p", { class: "gist" }, found.sequences ? line : rows),
      found.complete ? null : h("p", { class: "soft" }, part, button("Read all of it", () => this.look(0, true), { class: "link" })),
      warnings.map((warning) => h("p", { class: "note" }, h("strong", null, "Mind: "), sentence(warning))),
      found.problem ? h("p", { class: "trouble" }, sentence(`It would be rejected: ${found.problem}.`)) : null,
      this.form(found),
      look,
    );
    this.changed();
  }

  form(found) {
    const until = h("p", { class: "soft" }, `Kept here until ${clock(this.upload.expires_at)} if you do nothing.`);
    const away = button("Throw away", () => this.throwAway(), { class: found.problem ? "" : "plain" });
    if (found.problem) return h("form", { class: "add-form" }, h("div", { class: "actions" }, away), until);
    this.choices = h("form", { class: "add-form", on: { submit: (event) => this.submitted(event) } },
      choice(`priority-${this.number}`, "Priority", PRIORITIES, "normal"),
      h("div", { class: "pair" },
        h("label", null, "Passes over it ", h("input", { type: "number", name: "epochs", min: 1, max: 1000, step: 1, placeholder: "as set", inputmode: "numeric" })),
        h("label", { class: "check" }, h("input", { type: "checkbox", name: "again" }), " Train it even if the same bytes were learned before")),
      h("div", { class: "actions" }, away, h("button", { type: "submit", class: "primary" }, "Add to the queue")), until);
    return this.choices;
  }

  submitted(event) {
    event.preventDefault();
    pressed(event.submitter, () => this.add());
  }

  /** Add it as its form says. */
  async add() {
    const chosen = new FormData(this.choices);
    const epochs = chosen.get("epochs") ? Number(chosen.get("epochs")) : null;
    const body = { priority: chosen.get(`priority-${this.number}`), epochs, again: chosen.has("again") };
    try {
      const done = await post(`/api/uploads/${encodeURIComponent(this.upload.id)}/add`, body);
      this.ready = false;
      this.upload = null;
      const close = button("Close", () => this.gone(), { class: "plain" });
      fill(this.inside, h("p", { class: "done" }, sentence(done.said), " ", h("a", { href: `/files#${done.id}` }, "See the file"), " ", close));
      this.changed();
      this.added();
    } catch (error) {
      complain(error);
    }
  }

  async throwAway() {
    if (this.upload === null) return this.gone();
    return act(() => remove(`/api/uploads/${encodeURIComponent(this.upload.id)}`), () => this.gone());
  }
}
