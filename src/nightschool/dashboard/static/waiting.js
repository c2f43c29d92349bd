// The files that wait, in their order, which is changed by dragging, by buttons, or with Alt and the arrow keys.

import { button, redraw } from "./bits.js";
import { h } from "./dom.js";
import { stateOf, work } from "./telling.js";
import { count } from "./words.js";

const KIND = "application/x-nightschool-file";
const WAITS = new Set(["arrived", "archived", "ready", "skipped"]);
const LEVELS = [["now", "Now"], ["high", "High"], ["normal", "Normal"], ["low", "Low"]];

/** Whether a file of the queue can be moved. */
export function movable(file) {
  return WAITS.has(file.state);
}

/**
 * What to ask of the server for the file at `from` of `files` to come to stand before the one at `to` (`files.length`:
 * behind all): a list of [path, body].
 */
export function moves(files, from, to) {
  const file = files[from];
  if (to === from || to === from + 1 || !movable(file)) return [];
  const first = files.findIndex(movable);
  if (to <= first) return [["/api/queue/move", { file: file.id, where: "first" }]];
  if (to < files.length) return [["/api/queue/move", { file: file.id, where: "before", other: files[to].id }]];
  // `last` is behind those of its own priority: to stand behind all it takes on that of the last.
  const { priority } = files.at(-1);
  const asked = [["/api/queue/move", { file: file.id, where: "last" }]];
  if (priority !== file.priority) asked.unshift(["/api/queue/priority", { files: [file.id], priority }]);
  return asked;
}

/** The list. `ask(moves)`, `prioritise(file, level)` and `remove(file)` do what is asked for. */
export class WaitingList {
  constructor({ ask, prioritise, remove }) {
    Object.assign(this, { ask, prioritise, remove });
    this.node = h("ol", { class: "waiting" });
    this.files = [];
    this.shown = 0;
    this.open = null; // the number of the file whose buttons are shown
    this.dragged = null;
    this.later = null;
    this.drawn = "";
  }

  /** Show these files; `behind` are the next two, so that the last one shown can be moved behind the first of them. */
  draw(files, behind = []) {
    if (this.dragged !== null) {
      this.later = [files, behind]; // a list that moves under the pointer drops files in wrong places
      return;
    }
    this.files = [...files, ...behind];
    this.shown = files.length;
    const drawn = JSON.stringify([files, behind, this.open]);
    if (drawn === this.drawn) return; // what somebody is about to press is not put anew under their finger
    this.drawn = drawn;
    redraw(this.node, files.map((file, at) => this.line(file, at)));
  }

  line(file, at) {
    const can = movable(file);
    const open = can && this.open === file.id;
    const change = () => {
      this.open = open ? null : file.id;
      this.draw(this.files.slice(0, this.shown), this.files.slice(this.shown));
    };
    const line = h(
      "li",
      { class: open ? "open" : "", dataset: { id: file.id } },
      h("span", { class: "grip", draggable: can ? "true" : false, title: can ? "Drag it to another place" : false, "aria-hidden": "true" }),
      h("span", { class: "place soft" }, count(at + 1)),
      h("div", { class: "what" }, h("a", { class: "name", href: `/files#${file.id}` }, file.name), h("span", { class: "soft" }, about(file))),
      h("span", { class: "takes" }, work(file.steps, file.seconds, file.estimated) || "not known yet"),
      can ? button(open ? "Close" : "Change", change, { class: "plain", "aria-expanded": String(open), "aria-label": `${open ? "Close" : "Change"}: ${file.name}`, dataset: { key: `change-${file.id}` } }) : h("span"),
      open ? this.controls(file, at) : null,
    );
    if (can) line.addEventListener("keydown", (event) => this.key(event, at));
    this.takeDrops(line, at);
    return line;
  }

  controls(file, at) {
    const end = this.files.length;
    const first = this.files.findIndex(movable);
    const to = (words, place, out) => button(words, () => this.move(at, place), { disabled: out, dataset: { key: `${words}-${file.id}` } });
    const last = () => this.ask([["/api/queue/move", { file: file.id, where: "last" }]]);
    const level = ([value, words]) => {
      const chosen = file.priority === value;
      return button(words, () => !chosen && this.prioritise(file, value), {
        class: "segment", "aria-pressed": String(chosen), dataset: { key: `${value}-${file.id}` },
      });
    };
    return h(
      "div",
      { class: "controls" },
      h("div", { class: "group", role: "group", "aria-label": "Place" },
        to("First", first, at <= first),
        to("Earlier", at - 1, at <= first),
        to("Later", at + 2, at + 1 >= end),
        button("Last", last, { disabled: at + 1 >= end, title: "Behind all that have its priority", dataset: { key: `Last-${file.id}` } })),
      h("div", { class: "group segments", role: "group", "aria-label": "Priority" }, h("span", { class: "soft" }, "Priority"), LEVELS.map(level)),
      button("Remove from the queue", () => this.remove(file), { class: "plain small", dataset: { key: `remove-${file.id}` } }),
    );
  }

  move(from, to) {
    const asked = moves(this.files, from, Math.min(to, this.files.length));
    if (asked.length) this.ask(asked);
  }

  key(event, at) {
    if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    const first = this.files.findIndex(movable);
    if (event.key === "ArrowUp" ? at > first : at + 1 < this.files.length) this.move(at, event.key === "ArrowUp" ? at - 1 : at + 2);
  }

  takeDrops(line, at) {
    const grip = line.querySelector(".grip");
    const half = (event) => {
      const box = line.getBoundingClientRect();
      return event.clientY < box.top + box.height / 2 ? 0 : 1;
    };
    const mark = (where) => line.setAttribute("data-drop", where);
    grip.addEventListener("dragstart", (event) => {
      this.dragged = at;
      event.dataTransfer.setData(KIND, String(this.files[at].id));
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setDragImage(line, 16, 16);
      line.classList.add("dragged");
    });
    grip.addEventListener("dragend", () => {
      this.dragged = null;
      line.classList.remove("dragged");
      if (this.later) this.draw(...this.later);
      this.later = null;
    });
    line.addEventListener("dragover", (event) => {
      if (this.dragged === null) return;
      event.preventDefault();
      mark(half(event) ? "after" : "before");
    });
    line.addEventListener("dragleave", () => line.removeAttribute("data-drop"));
    line.addEventListener("drop", (event) => {
      line.removeAttribute("data-drop");
      if (this.dragged === null) return;
      event.preventDefault();
      this.move(this.dragged, at + half(event));
    });
  }
}

function about(file) {
  const parts = [stateOf(file.state)];
  if (file.priority !== "normal") parts.push(file.priority === "now" ? "learned at once" : `priority ${file.priority}`);
  if (file.rows !== null) parts.push(count(file.rows, "row"));
  return parts.join(", ");
}
