// The overview: is it learning, what has it learned, what is next, is everything safe.
import { get } from "./ask.js";
import { oneAtATime } from "./once.js";
import { Chart } from "./chart.js";
import { nearest } from "./columns.js";
import { fill, h, put, sentence } from "./dom.js";
import { KINDS } from "./figure.js";
import { listen } from "./live.js";
import { ago, capital, count, duration, ended, foreseen, loss, many, rate, roughly, when } from "./words.js";

const LATELY = 7;
const EVENTS_BACK = 200;
const HEALTH_MS = 60_000;
// What a person would tell in the morning; the log has all of it.
const QUIET = new Set(["state", "answered", "asked", "file-archived", "settings", "copied", "saved", "undone-removed", "snapshot-removed"]);
const TROUBLE = new Set(["accident", "checkpoint-damaged", "snapshot-failed", "copy-failed", "file-rejected", "settings-refused", "data-changed"]);
const part = (name) => document.getElementById(name);
const text = (node, value) => put(part(node), value);

let now = null;
let events = [];
let reading = null;
let problem = null;

const chart = new Chart({ box: part("chart"), card: part("chart-card"), line: part("chart-line"), said: part("chart-said") }, drawTools);

// --- the curve ---

/** Read the curve and its marks; while that is going on, whoever asks again waits for the same. */
function readCurve() {
  reading ??= Promise.all([get("/api/curve", { points: 1200 }), get("/api/marks")])
    .then(async ([curve, marks]) => {
      problem = null;
      if (!curve.step.length) return drawEmpty();
      part("chart-wait").hidden = true;
      const drawn = chart.begin(curve, marks);
      drawLegend();
      drawFigures();
      await drawn;
    })
    .catch((error) => {
      problem = error;
      if (chart.all === null) waitSays(h("p", { class: "note trouble" }, sentence(error.message)));
    })
    .finally(() => (reading = null));
  return reading;
}

async function readMarks() {
  const marks = await get("/api/marks");
  if (chart.all !== null) chart.remark(marks);
  drawLegend();
}

function newSteps(steps) {
  if (chart.all === null) {
    if (steps.step.length) readCurve();
    return;
  }
  if (!chart.add(steps)) readCurve();
  drawFigures();
}

function drawTools() {
  part("everything").disabled = chart.range === null;
  part("wider").disabled = chart.range === null;
}

function drawLegend() {
  const counts = { files: chart.marks.files.length + chart.marks.files_left_out };
  for (const { kind } of chart.marks.marks) counts[kind] = (counts[kind] ?? 0) + 1;
  counts.bad = chart.all.bad.reduce((sum, one) => sum + one, 0);
  const known = [["files", "Files"], ...Object.entries(KINDS).map(([kind, { words }]) => [kind, words]), ["bad", "Not a number"]];
  const legend = part("legend");
  const shown = known.filter(([kind]) => counts[kind]);
  const key = JSON.stringify(shown.map(([kind]) => [kind, counts[kind]]));
  if (legend.dataset.key === key) return;
  legend.dataset.key = key;
  fill(
    legend,
    shown.map(([kind, words]) => {
      const press = (event) => {
        const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
        event.currentTarget.setAttribute("aria-pressed", String(on));
        chart.toggle(kind, on);
      };
      const pressed = String(!chart.hidden.has(kind));
      const button = h("button", { type: "button", class: kind, "aria-pressed": pressed, on: { click: press } });
      button.append(glyph(kind), `${words} `, h("span", { class: "soft" }, count(counts[kind])));
      return button;
    }),
  );
}

const SHAPES = {
  files: "M6 0.5v3M6 5v2.5M6 9v2.5", snapshot: "M6 2a4 4 0 1 0 .01 0z", resumed: "M3 2l6.5 4L3 10z", cut: "M6 1l4.5 5L6 11 1.5 6z",
  numerics: "M2 2h8v8H2z", bad: "M2 2l8 8M10 2l-8 8",
};

function glyph(kind) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  picture.setAttribute("viewBox", "0 0 12 12");
  picture.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SHAPES[kind]);
  picture.append(path);
  return picture;
}

// --- figures ---

function drawNow(found) {
  now = found;
  chart.set({ live: now.status.state === "training" });
  drawFigures();
  drawSafe();
  document.body.toggleAttribute("data-empty", now.empty && chart.all === null);
  if (now.empty) drawEmpty();
}

function drawFigures() {
  if (now === null) return;
  const { status, at } = now;
  const curve = chart.all;
  figure("loss", h("span", null, loss(status.loss)), status.loss === null ? "" : " nats per token");
  text("f-loss-more", lossBefore(curve));
  const steps = Math.max(status.step, curve?.steps_done ?? 0);
  figure("steps", count(steps), steps === 1 ? " step" : " steps");
  const tokens = curve?.tokens.at(-1);
  const spent = tokens ? [`${many(tokens)} tokens`, `in ${duration(curve.hours.at(-1) * 3600)}`].join(" ") : "";
  text("f-steps-more", spent);
  const speed = status.tokens_per_second;
  figure("speed", speed === null ? "–" : rate(speed).split(" ")[0], speed === null ? "" : " tokens/s");
  text("f-speed-more", speed === null ? "nothing is trained now" : perDay(speed));
  const left = status.seconds_left;
  figure("left", left ? `about ${roughly(left)}` : status.current_file || status.queued ? "–" : "nothing", "");
  text("f-left-more", left ? doneNear(left, at, status.queued) : waiting(status.queued));
  const saved = status.last_checkpoint;
  figure("safe", saved ? `step ${count(saved.step)}` : "–", "");
  text("f-safe-more", saved ? `saved ${ago(saved.written_at, at)}` : "nothing is saved yet");
}

function figure(name, value, unit) {
  const node = part(`f-${name}`);
  const all = `${value.textContent ?? value}${unit}`;
  if (node.textContent !== all) fill(node, value, unit && h("small", null, unit));
}

function lossBefore(curve) {
  if (!curve?.step.length) return "";
  const smooth = curve.smooth.at(-1);
  const file = chart.marks.files.at(-1);
  const began = file && file.first > curve.step[0] ? curve.smooth[nearest(curve.step, file.first)] : null;
  const dayBefore = curve.hours.at(-1) > 24 ? curve.smooth[nearest(curve.hours, curve.hours.at(-1) - 24)] : null;
  const told = [];
  if (dayBefore !== null) told.push(`24 h of training ago ${loss(dayBefore)}`);
  else if (began !== null) told.push(`when ${now?.status.current_file ? "this" : "the last"} file began ${loss(began)}`);
  return [`smoothed ${loss(smooth)}`, ...told].join("; ");
}

function perDay(speed) {
  return `${many(Math.round((speed * 86400) / 1e5) * 1e5)} in 24 h`;
}

function doneNear(left, at, queued) {
  return `${foreseen(left, at).split(", ").slice(1).join(", ")}; ${waiting(queued)}`;
}

function waiting(queued) {
  return queued ? `${count(queued, "file")} ${queued === 1 ? "waits" : "wait"}` : "no file waits";
}

// --- next, learned, safe, lately ---

async function readQueue() {
  const queue = await get("/api/queue", { limit: 4 });
  const current = now?.status.current_file;
  const next = queue.files.filter((one) => !(one.state === "training" && one.name === current)).slice(0, 3);
  const rest = Math.max(0, queue.waiting - next.length);
  fill(
    part("next"),
    next.length
      ? h("ol", { class: "list" }, next.map((one) => h("li", null, named(one.name), h("span", { class: "soft" }, howLong(one)))))
      : h("p", { class: "soft" }, "Nothing waits. Drop a file on this page, or into inbox/."),
    h("a", { href: "/queue", class: "more-link" }, rest ? `and ${count(rest, "more file")} in the queue` : "The queue"),
  );
}

function named(name) {
  return h("span", { class: "name", title: name }, name);
}

function howLong(one) {
  const steps = one.steps === null ? "not measured yet" : `${one.estimated ? "about " : ""}${count(one.steps, "step")}`;
  return [steps, one.seconds === null ? "" : `about ${roughly(one.seconds)}`].filter(Boolean).join(", ");
}

async function readLearned() {
  const { files } = await get("/api/files", { state: "learned", limit: 12 });
  const latest = files.toSorted((a, b) => String(b.learned_at).localeCompare(String(a.learned_at))).slice(0, 3);
  fill(
    part("learned"),
    latest.length
      ? h("ul", { class: "list" }, latest.map((file) => h("li", null, named(file.name), h("span", { class: "soft" }, taught(file)))))
      : h("p", { class: "soft" }, "Nothing yet. A file is learned once a checkpoint holds its last step."),
    h("a", { href: "/files", class: "more-link" }, "All files"),
  );
}

function taught(file) {
  const learned = file.learned_at ? `learned ${when(file.learned_at, now?.at)}` : "learned";
  if (!file.holdout_rows) return `${learned}; nothing was held out`;
  if (file.holdout_before === null || file.holdout_after === null) return `${learned}; not measured on the rows held out`;
  return [`held-out loss ${loss(file.holdout_before)} → `, h("strong", null, loss(file.holdout_after)), ` nats per token, ${learned}`];
}

let findings = null;

async function readHealth() {
  findings = (await get("/api/health")).findings;
  drawSafe();
}

function drawSafe() {
  if (now === null) return;
  const { last_checkpoint: checkpoint, last_snapshot: snapshot } = now.status;
  // That it does not run is said above, and makes nothing less safe.
  const bad = (findings ?? []).filter((one) => one.verdict === "trouble" || (one.verdict === "watch" && one.name !== "machine"));
  const facts = [
    ["Last checkpoint", checkpoint ? `step ${count(checkpoint.step)}, ${when(checkpoint.written_at, now.at)}` : "none yet"],
    ["Last snapshot", snapshot ? `${snapshot.name}, step ${count(snapshot.step)}` : "none yet"],
  ];
  const said = findings === null ? h("p", { class: "soft" }, "Looking …") : verdict(bad);
  fill(
    part("safe"),
    said,
    h("dl", { class: "list" }, facts.map(([what, value]) => h("div", null, h("dt", { class: "soft" }, what), h("dd", null, value)))),
    h("a", { href: "/saved", class: "more-link" }, "Everything that can be gone back to"),
  );
}

function verdict(bad) {
  if (!bad.length) return h("p", null, "Everything is safe. Nothing needs you.");
  const worst = bad.filter((one) => one.verdict === "trouble");
  const told = (worst.length ? worst : bad)[0];
  const more = bad.length - 1;
  return h(
    "div",
    { class: worst.length ? "note trouble" : "note" },
    h("p", null, h("strong", null, capital(told.name)), ": ", sentence(ended(told.text)), " ", sentence(ended(told.advice))),
    more > 0 && h("a", { href: "/health" }, `and ${count(more, "more thing")} to look at`),
  );
}

async function readEvents() {
  const newest = now?.event ?? (await get("/api/now")).event;
  let after = Math.max(0, newest - EVENTS_BACK);
  const found = [];
  while (after !== null && found.length <= EVENTS_BACK) {
    const page = await get("/api/events", { after });
    found.push(...page.events);
    after = page.next;
  }
  events = found;
  drawEvents();
}

function newEvents(found) {
  const last = events.at(-1)?.id ?? 0;
  events = [...events, ...found.events.filter((event) => event.id > last)].slice(-EVENTS_BACK);
  drawEvents();
}

function happened({ kind, text }) {
  return kind === "file-rejected" ? `Rejected ${text}` : text;
}

function drawEvents() {
  const told = events.filter((event) => !QUIET.has(event.kind)).slice(-LATELY).toReversed();
  const item = (event) =>
    h(
      "li",
      null,
      h("time", { class: "soft", datetime: event.at }, capital(when(event.at, now?.at))),
      h("span", { class: TROUBLE.has(event.kind) && "trouble" }, sentence(ended(happened(event)))),
    );
  fill(part("lately"), told.length ? h("ul", { class: "diary" }, told.map(item)) : h("p", { class: "soft" }, "Nothing has happened yet."));
}

// --- an empty workspace ---

function waitSays(...nodes) {
  part("chart-wait").hidden = false;
  fill(part("chart-wait"), nodes);
}

function drawEmpty() {
  if (chart.all !== null || part("chart-wait").querySelector(".welcome, .soft.soon")) return;
  if (now !== null && !now.empty) {
    waitSays(h("p", { class: "soft soon" }, "No step is done yet. The curve begins with the first one."));
    return;
  }
  if (now === null) return;
  waitSays(
    h(
      "div",
      { class: "welcome" },
      h("h2", null, "Nothing to learn yet"),
      h("p", null, "Give it a data file, and this page will show one curve that goes on across every file from then on:"),
      h(
        "ul",
        null,
        h("li", null, "drop a file on this page, or ", h("a", { href: "/queue" }, "choose one"), ";"),
        h("li", null, "or put it into ", h("code", null, "inbox/"), " of the workspace;"),
        h("li", null, "or type ", h("code", null, "nightschool add FILE"), " in a terminal."),
      ),
      h("p", { class: "soft" }, "JSON Lines, JSON, CSV, Parquet or plain text, also compressed: conversations, instructions with answers, or text."),
    ),
  );
}

/** Files may be dropped here too: the queue's own module takes them, and shows at the end of the page what they are. */
function takeDrops() {
  const begin = () =>
    import("./upload.js").then(({ uploads }) => part("adding").append(uploads({ added: () => quietly(readQueue) })));
  // After the curve: nobody drops a file within the first second.
  (globalThis.requestIdleCallback ?? setTimeout)(() => begin().catch((error) => console.warn(error.message)), { timeout: 3000 });
  addEventListener("drop", () => part("adding").scrollIntoView({ block: "nearest" }));
}

// --- together ---

// Never two of one kind at a time: a slow answer must not come after a newer one.
const READS = { curve: readCurve, queue: oneAtATime(readQueue), files: oneAtATime(readLearned), events: oneAtATime(readEvents) };
const quietly = (read) => read().catch((error) => error.name !== "AbortError" && console.warn(error.message));

function changed({ what }) {
  for (const name of what) if (READS[name]) quietly(READS[name]);
}

for (const radio of document.querySelectorAll("[name=along]")) radio.addEventListener("change", () => chart.set({ along: radio.value }));
for (const radio of document.querySelectorAll("[name=scale]")) radio.addEventListener("change", () => chart.set({ log: radio.value === "log" }));
part("closer").addEventListener("click", () => chart.zoom(0.5));
part("wider").addEventListener("click", () => chart.zoom(2));
part("everything").addEventListener("click", () => chart.look());

const MARKED = new Set(["snapshot", "resumed", "cut", "numerics", "began"]);
listen({
  now: drawNow,
  steps: newSteps,
  events: (found) => {
    newEvents(found);
    if (found.events.some((event) => MARKED.has(event.kind)) && chart.all !== null) quietly(readMarks);
  },
  changed,
  connection: (state) => state === "open" && problem !== null && quietly(readCurve),
});
// The views' sheet hides what would jump until a view has looked; here all places are kept from the beginning.
document.body.classList.add("looked");
// The curve first; the rest when it is asked for already.
for (const read of [readCurve, readQueue, readLearned, readEvents, readHealth]) quietly(read);
setInterval(() => !document.hidden && quietly(readHealth), HEALTH_MS);
takeDrops();
