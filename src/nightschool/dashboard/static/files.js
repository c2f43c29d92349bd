// The page Files: all that was ever dropped, searched and filtered; `#12` in the address opens file 12.

import { get } from "./ask.js";
import { button, looked, oneAtATime, redraw, settled, whenOpen } from "./bits.js";
import { complain } from "./dialog.js";
import { fill, h, sentence } from "./dom.js";
import { FileView } from "./file.js";
import { listen } from "./live.js";
import { ALL_STATES, stateOf } from "./telling.js";
import { count, day, loss } from "./words.js";

const PAGE = 50;
const ROUNDS = 40; // a search that finds little is asked on by itself so often, then on request
const part = (id) => document.getElementById(id);
const asked = { search: "", state: "" };
let files = [];
let counts = {};
let next = null;
let scrolled = 0;
let opened = null;
let drawn = "";
const end = new IntersectionObserver(([one]) => one.isIntersecting && files.length && more(), { rootMargin: "300px" });

const load = oneAtATime(async () => {
  // As many as are shown already: a reload must not take away what the reader scrolled to.
  const most = Math.max(PAGE, files.length);
  const query = { ...asked };
  try {
    const found = await pages(query, null, most);
    if (found === null) return;
    if (files.length > most) return void load(); // more came meanwhile: asked for anew, with those
    ({ files, next, counts } = found);
    fill(part("files-trouble"));
  } catch (error) {
    looked();
    fill(part("files-trouble"), h("p", { class: "note trouble" }, sentence(error.message)), button("Try again", load));
    return;
  }
  draw();
  lookForEnd(files);
});

const more = oneAtATime(async () => {
  if (next === null) return;
  const query = { ...asked };
  const before = next;
  try {
    const found = await pages(query, before, PAGE);
    if (found === null) return;
    if (before !== next) return void more(); // what is shown was asked for anew meanwhile, and ends elsewhere
    files = [...files, ...found.files];
    ({ next, counts } = found);
    draw();
    lookForEnd(found.files);
  } catch (error) {
    complain(error);
  }
});

/**
 * See anew whether the end of the list is in sight: an observer tells changes only, and where rows are drawn and
 * scrolled over before it has looked, there was none. Not after few: those are searched on on request.
 */
function lookForEnd(found) {
  if (found.length < PAGE) return;
  end.unobserve(part("files-more"));
  end.observe(part("files-more"));
}

/** The next files, up to `most`: a page may hold few, or none, and yet not be the last. Null: nobody asks any more. */
async function pages(query, before, most) {
  let all = [];
  let found = { next: before };
  for (let round = 0; round < ROUNDS && all.length < most && (round === 0 || found.next !== null); round += 1) {
    found = await get("/api/files", { ...query, limit: Math.min(200, most - all.length), before: found.next });
    if (query.search !== asked.search || query.state !== asked.state) return null;
    all = [...all, ...found.files];
  }
  return { ...found, files: all };
}

function ask(changes) {
  Object.assign(asked, changes);
  files = [];
  const search = new URLSearchParams(Object.entries(asked).filter(([, value]) => value)).toString();
  history.replaceState(null, "", `${location.pathname}${search ? `?${search}` : ""}${location.hash}`);
  load();
}

function draw() {
  looked();
  const now = JSON.stringify([files, counts, next, asked]);
  if (now === drawn) return; // what somebody is about to press is not put anew under their finger
  drawn = now;
  drawStates();
  const all = Object.values(counts).reduce((sum, number) => sum + number, 0);
  part("files-table").hidden = files.length === 0;
  redraw(part("files-rows"), files.map(row));
  fill(part("files-empty"), files.length ? null : empty(all));
  redraw(part("files-more"), next === null ? null : button(files.length ? "Show more" : "Search in older files", more, { dataset: { key: "more" } }));
}

function empty(all) {
  if (all === 0) {
    return h("p", { class: "empty" }, "No file was dropped yet. Put one into the folder ", h("code", null, "inbox/"), " of the workspace, or ", h("a", { href: "/queue" }, "add one on the page Queue"), ": what it holds is shown before anything is trained.");
  }
  const clear = button("Show all files", () => {
    part("search").value = "";
    ask({ search: "", state: "" });
  });
  return h("div", { class: "empty" }, h("p", null, next === null ? "No file is like that." : "None of the newer files is like that."), clear);
}

function drawStates() {
  const all = Object.values(counts).reduce((sum, number) => sum + number, 0);
  const one = (state, words, number) =>
    button([words, " ", h("span", { class: "of" }, count(number))], () => ask({ state }), { class: "small", "aria-pressed": String(asked.state === state), dataset: { key: `state-${state}` } });
  const states = ALL_STATES.filter((state) => counts[state] || asked.state === state);
  redraw(part("states"), one("", "All", all), states.map((state) => one(state, stateOf(state), counts[state] ?? 0)));
}

/** How the loss on the held-out rows changed: `2.31 → 1.92`. */
function heldOut(file) {
  if (file.holdout_before === null && file.holdout_after === null) return "";
  return `${loss(file.holdout_before)} → ${loss(file.holdout_after)}`;
}

function row(file) {
  const bad = file.rows_bad ? h("span", { class: "soft" }, `, ${count(file.rows_bad)} bad`) : null;
  const tag = ["rejected"].includes(file.state) ? "tag trouble" : file.state === "training" ? "tag now" : "tag";
  const why = ["rejected", "duplicate", "set_aside"].includes(file.state) && file.reason;
  return h(
    "tr",
    null,
    h("td", null, h("a", { class: "name", href: `#${file.id}`, dataset: { key: `file-${file.id}` } }, file.name), why ? h("div", { class: "soft small why" }, sentence(why)) : null),
    h("td", null, h("span", { class: tag }, stateOf(file.state))),
    h("td", { class: "num", "data-what": "Rows" }, count(file.rows), bad),
    h("td", { class: "num", "data-what": "Tokens" }, count(file.tokens)),
    h("td", { class: "num", "data-what": "Held-out loss" }, heldOut(file) || "–"),
    h("td", { class: "num soft", "data-what": "Came" }, day(file.arrived_at)),
  );
}

const view = new FileView({ changed: load });
part("file").replaceWith(view.node);

function route() {
  const id = /^#([1-9]\d{0,18})$/.exec(location.hash)?.[1] ?? null;
  if (id === opened) return;
  if (opened === null) scrolled = scrollY;
  const from = opened;
  opened = id;
  part("listing").hidden = id !== null;
  view.node.hidden = id === null;
  if (id !== null) {
    looked();
    view.open(id);
    scrollTo(0, 0);
  } else {
    view.close();
    scrollTo(0, scrolled);
    document.querySelector(`[data-key="file-${CSS.escape(from)}"]`)?.focus({ preventScroll: true });
  }
}

const given = new URLSearchParams(location.search);
asked.search = given.get("search") ?? "";
asked.state = given.get("state") ?? "";
part("search").value = asked.search;
part("search").addEventListener("input", settled(() => ask({ search: part("search").value.trim() }), 250));
part("search-form").addEventListener("submit", (event) => event.preventDefault());
end.observe(part("files-more"));
addEventListener("hashchange", route);
listen({
  changed({ what }) {
    if (!what.includes("files")) return;
    load();
    view.again();
  },
  connection: whenOpen(load),
});
route();
load();
