// The page Queue: what is in training, what waits, and adding files.

import { get, post } from "./ask.js";
import { act, button, choice, looked, oneAtATime, pressed, redraw, whenOpen } from "./bits.js";
import { complain, confirm } from "./dialog.js";
import { fill, h, sentence } from "./dom.js";
import { listen } from "./live.js";
import { untilHour, work } from "./telling.js";
import { uploads } from "./upload.js";
import { WaitingList } from "./waiting.js";
import { capital, count, duration, foreseen, since } from "./words.js";

const MORNING = 7; // o'clock, the machine's time
const MORE = 50;
const MOST = 498; // with the two behind them as many as can be asked for
const part = (id) => document.getElementById(id);
let shown = MORE;
let now = null;
let queue = null;

const list = new WaitingList({
  ask: (asked) => act(async () => {
    let done = null;
    for (const [path, body] of asked) done = await post(path, body);
    return done;
  }, load),
  prioritise,
  remove,
});

const load = oneAtATime(async () => {
  try {
    const [found, aside] = await Promise.all([
      get("/api/queue", { limit: Math.min(500, shown + 2) }),
      get("/api/files", { state: "set_aside", limit: 20 }),
    ]);
    queue = found;
    drawWaiting();
    drawAside(aside);
    drawTraining();
  } catch (error) {
    looked();
    fill(part("queue-trouble"), h("p", { class: "note trouble" }, sentence(error.message)), button("Try again", load));
    return;
  }
  fill(part("queue-trouble"));
});

function drawWaiting() {
  const behind = queue.files.filter((file) => file.state !== "training");
  const all = Math.max(queue.waiting, behind.length);
  list.draw(behind.slice(0, shown), behind.slice(shown, shown + 2));
  const ends = foreseen(queue.seconds);
  const comes = work(queue.steps, ends ? null : queue.seconds, queue.estimated);
  const total = comes ? ` With what is in training that is ${comes}${ends ? `: ${ends} if it runs on` : ""}.` : "";
  const files = `${count(all, "file")} ${all === 1 ? "waits" : "wait"}.`;
  fill(part("queue-sum"), all ? `${files}${total}` : sentence("Nothing waits. Add a file above, or put one into the folder `inbox/` of the workspace."));
  part("how-to-move").hidden = all < 2;
  const more = all > shown && shown < MOST;
  redraw(part("queue-more"), more ? button(`Show more of ${count(all)}`, () => ((shown = Math.min(MOST, shown + 3 * MORE)), load()), { dataset: { key: "more" } }) : null);
}

function drawAside(aside) {
  part("aside").hidden = aside.files.length === 0;
  const lines = aside.files.map((file) =>
    h("li", null,
      h("div", { class: "what" }, h("a", { class: "name", href: `/files#${file.id}` }, file.name), h("span", { class: "soft" }, sentence(file.reason ?? ""))),
      button("Put back", (event) => pressed(event.currentTarget, () => post("/api/queue/put-back", { files: [file.id] }), load), { "aria-label": `Put back: ${file.name}`, dataset: { key: `back-${file.id}` } })),
  );
  redraw(part("aside-files"), lines);
  const left = (aside.counts.set_aside ?? lines.length) - lines.length;
  fill(part("aside-more"), left > 0 ? h("a", { href: "/files" }, `${count(left)} more on the page Files`) : null);
}

function drawTraining() {
  if (now === null) return;
  const { status } = now;
  const name = status.current_file;
  const begun = name !== null && now.file_steps > 0;
  part("training").dataset.begun = String(begun);
  part("training").dataset.now = String(status.state === "training" && begun);
  fill(part("training-name"), begun ? name : "Nothing right now");
  const words = [];
  if (begun) {
    words.push(`${count(now.file_step)} of ${count(now.file_steps, "step")}`);
    const ends = foreseen(now.file_seconds, now.at);
    words.push(ends || (status.state === "training" ? "" : `${status.state}${status.since ? ` ${since(status.since, now.at)}` : ""}`));
  } else {
    words.push(capital(status.state), status.since ? since(status.since, now.at) : "");
  }
  fill(part("training-words"), words.filter(Boolean).join(", "));
  const bar = part("training-bar");
  bar.max = Math.max(1, now.file_steps);
  bar.value = begun ? now.file_step : 0;
  drawActs(status, begun);
  if (queue !== null) looked();
}

function drawActs(status, begun) {
  const acts = part("acts");
  const key = JSON.stringify([status.paused, status.pid !== null, begun]);
  if (acts.dataset.shown === key) return; // nothing else changes the buttons, and they keep the focus
  acts.dataset.shown = key;
  redraw(
    acts,
    status.paused ? button("Resume", (event) => pressed(event.currentTarget, () => post("/api/resume")), { class: "primary", dataset: { key: "pause" } })
      : button("Pause …", pause, { dataset: { key: "pause" } }),
    begun ? button("Skip …", skip, { dataset: { key: "skip" } }) : null,
    status.pid !== null ? button("Stop …", stop, { class: "plain", dataset: { key: "stop" } })
      : h("span", { class: "soft" }, sentence("The machine does not run. `nightschool run` starts it.")),
  );
}

async function pause() {
  const night = untilHour(MORNING, new Date().toISOString(), now.utc_offset);
  const how = choice("pause", "For how long", [
    ["", "Until it is resumed"],
    ["3600", "For an hour"],
    ["7200", "For two hours"],
    [String(night), "Until morning", `07:00, in ${duration(night)}`],
  ], "");
  const body = h("div", null, h("p", null, "Training rests and the GPU is freed. A checkpoint is saved first, so nothing is lost. New files are still taken in and read."), how);
  const chosen = () => how.querySelector("input:checked").value;
  if (await confirm({ title: "Pause training?", body, action: "Pause" })) act(() => post("/api/pause", { seconds: chosen() ? Number(chosen()) : null }));
}

async function skip() {
  const name = now.status.current_file;
  const file = now.file; // while it is asked the next one may begin: that is not the one that is meant
  const how = choice("skip", "Its other steps", [
    ["back", "Wait behind all others", "it goes on from where it is now when its turn comes again"],
    ["shelve", "Are set aside", "they wait no more until you put the file back"],
  ], "back");
  const body = h("div", null, h("p", null, "The next file begins. What was learned of ", h("b", { class: "name" }, name), ` so far (${count(now.file_step)} of ${count(now.file_steps, "step")}) stays in the model.`), how);
  const ok = await confirm({ title: "Go on with the next file?", body, action: "Skip it" });
  if (ok) act(() => post("/api/skip", { shelve: how.querySelector("input:checked").value === "shelve", file }), load);
}

async function stop() {
  const body = [
    h("p", null, "A checkpoint is saved, then the machine ends: nothing is trained and no file is taken in until it is started again. This page ends with it."),
    h("p", null, sentence("Start it again with `nightschool run` in a terminal; it goes on from where it was.")),
    h("p", { class: "soft" }, "To free the GPU for a while only, pause instead."),
  ];
  if (await confirm({ title: "Stop the machine?", body, action: "Stop it", danger: true })) act(() => post("/api/stop"));
}

async function prioritise(file, priority) {
  if (priority === "now") {
    const interrupted = queue.files.find((one) => one.state === "training");
    const body = interrupted
      ? ["It is learned next. ", h("b", { class: "name" }, interrupted.name), " is interrupted for it, and goes on afterwards. Nothing learned is lost."]
      : ["It is learned next, before all that waits."];
    const ok = await confirm({ title: "Learn it at once?", body: h("p", null, h("b", { class: "name" }, file.name), ": ", body), action: "Learn it now" });
    if (!ok) return;
  }
  await act(() => post("/api/queue/priority", { files: [file.id], priority }), load);
}

async function remove(file) {
  const rest = file.state === "skipped" ? " What was learned of it stays in the model." : "";
  const body = h("p", null, h("b", { class: "name" }, file.name), ` is not trained then. Its bytes are kept, and you can put it back.${rest}`);
  const ok = await confirm({ title: "Remove it from the queue?", body, action: "Remove it", danger: true });
  if (ok) await act(() => post("/api/queue/remove", { files: [file.id] }), load);
}

part("list").replaceWith(list.node);
part("adding").replaceWith(uploads({ added: load }));
listen({
  now(found) {
    now = found;
    drawTraining();
  },
  changed({ what }) {
    if (what.includes("queue") || what.includes("files")) load();
  },
  connection: whenOpen(load),
});
load().catch(complain);
