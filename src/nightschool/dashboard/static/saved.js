// The page Checkpoints: every state that can be gone back to, newest first, and going back to one.

import { get, post } from "./ask.js";
import { agree, button, choice, looked, oneAtATime, redraw, whenOpen } from "./bits.js";
import { complain, confirm } from "./dialog.js";
import { fill, h, sentence } from "./dom.js";
import { followJob } from "./jobs.js";
import { listen } from "./live.js";
import { isOver } from "./stream.js";
import { ago, bytes, capital, clock, count, day, duration, when } from "./words.js";

const SHOWN = 60;
const part = (id) => document.getElementById(id);
let shown = SHOWN;
let gone = false; // whether those are listed whose folders were removed
let saved = null;

const load = oneAtATime(async () => {
  try {
    saved = await get("/api/saved");
    fill(part("saved-trouble"));
    draw();
  } catch (error) {
    fill(part("saved-trouble"), h("p", { class: "note trouble" }, sentence(error.message)), button("Try again", load));
  }
  looked();
});

/** Checkpoints and snapshots as one list, newest first. */
function moments() {
  const checkpoints = saved.checkpoints
    .filter((one) => one.there || gone)
    .map((one) => ({
      at: one.written_at,
      what: "Checkpoint",
      title: `Step ${count(one.step)}`,
      to: nameOf(one),
      damaged: one.state === "damaged" ? (one.reason ?? "its bytes are not those that were written") : null,
      notes: [
        one.state === "undone" && "undone: no part of the run any more",
        one.state === "retired" && "removed, as newer ones are kept",
        one.state !== "damaged" && one.state !== "retired" && one.reason,
        one.seconds > 0 && `took ${duration(one.seconds)}${one.stalled >= 0.1 ? `, of which training stood still for ${duration(one.stalled)}` : ""}`,
      ],
      ...one,
    }));
  const snapshots = saved.snapshots.map((one) => ({
    at: one.taken_at,
    what: "Snapshot",
    title: one.name,
    to: one.problem ? null : one.name,
    damaged: one.problem,
    there: true,
    notes: [`step ${count(one.step)}`, one.file && `learned last: ${one.file}`, [one.keep ? "kept" : "removed soon", one.why].filter(Boolean).join(": ")],
    ...one,
  }));
  return [...checkpoints, ...snapshots].sort((a, b) => Date.parse(b.at) - Date.parse(a.at) || b.step - a.step);
}

/** What a rollback is told for a checkpoint; null for one that cannot be gone back to. */
function nameOf(one) {
  if (!one.there || one.state === "damaged") return null;
  if (one.state !== "undone") return `checkpoint-${one.step}`;
  // One that was undone is found by its step alone, and only where no other state has that step.
  const others = [...saved.checkpoints.filter((other) => other.there), ...saved.snapshots].filter((other) => other.step === one.step);
  return others.length === 1 ? String(one.step) : null;
}

function draw() {
  const all = moments();
  const groups = Map.groupBy(all.slice(0, shown), (one) => day(one.at));
  const timeline = [...groups].map(([name, ones]) => h("section", { class: "day" }, h("h3", null, capital(name)), h("ol", null, ones.map(moment))));
  const fresh = h("div", null, all.length ? timeline : empty());
  // What looks the same is the same: what somebody is about to press is not put anew under their finger.
  if (fresh.innerHTML !== part("timeline").innerHTML) redraw(part("timeline"), [...fresh.childNodes]);
  redraw(part("saved-more"), all.length > shown ? button(`Show more of ${count(all.length)}`, () => ((shown += 4 * SHOWN), draw()), { dataset: { key: "more" } }) : null);
  const removed = saved.checkpoints.filter((one) => !one.there).length;
  const words = gone ? "Hide those that were removed" : `Show ${count(removed)} that were removed`;
  redraw(part("saved-gone"), removed ? button(words, () => ((gone = !gone), draw()), { class: "plain", dataset: { key: "gone" } }) : null);
  part("undo").disabled = !saved.undo;
  part("undo-none").hidden = saved.undo;
  drawSums();
}

function drawSums() {
  const there = saved.checkpoints.filter((one) => one.there);
  const own = [...there, ...saved.snapshots].reduce((sum, one) => sum + (one.own_bytes ?? 0), 0);
  const lines = [
    there.length + saved.snapshots.length > 0 && `${count(there.length, "checkpoint")} and ${count(saved.snapshots.length, "snapshot")} are there. Their own bytes are ${bytes(own)}.`,
    saved.next_snapshot && `The next snapshot is taken ${when(saved.next_snapshot) === clock(saved.next_snapshot) ? "at " : ""}${when(saved.next_snapshot)}.`,
    saved.second_place && `Copies go to ${saved.second_place}.`,
  ];
  fill(part("sums"), lines.filter(Boolean).join(" "));
  const bad = [...saved.checkpoints.filter((one) => one.there && one.state === "damaged"), ...saved.snapshots.filter((one) => one.problem)];
  const words = bad.length === 1 ? "A saved state is damaged, and the machine does not use it." : `${count(bad.length, "saved state")} are damaged, and the machine does not use them.`;
  fill(part("damage"), bad.length ? h("p", { class: "note trouble" }, words, " Below it says what is wrong and what to do.") : null);
}

function empty() {
  return h("p", { class: "empty" }, "Nothing is saved yet. The first checkpoint is written while the first file is trained, and a snapshot is taken each night. ", h("a", { href: "/queue" }, "Add a file"), " to begin.");
}

function moment(one) {
  const verified = one.verified_at ? `verified ${ago(one.verified_at)}` : "never verified";
  const sizes = one.own_bytes === null ? [] : [`${bytes(one.own_bytes)} own`, one.shared_bytes ? `${bytes(one.shared_bytes)} shared` : ""];
  const advice = one.what === "Snapshot"
    ? "Go back to another one if you need to, and remove its folder from snapshots/ when you have looked at it."
    : "The machine passes over it and goes on from an older whole one. Nothing is to be done, unless it happens again: then test the disk.";
  return h("li", { class: one.damaged ? "moment damaged" : one.there ? "moment" : "moment removed" },
    h("span", { class: "at" }, clock(one.at)),
    h("div", { class: "what" },
      h("p", null, h("span", { class: "tag" }, one.what), " ", h("span", { class: "name" }, one.title)),
      h("p", { class: "soft small" }, one.notes.filter(Boolean).join("; ")),
      one.damaged ? h("p", { class: "trouble" }, h("strong", null, "Damaged: "), sentence(one.damaged), ". ", h("span", { class: "soft" }, advice)) : null),
    h("div", { class: "size soft small" }, sizes.filter(Boolean).map((size) => h("span", null, size)), one.there ? h("span", { title: one.verified_at ? when(one.verified_at) : false }, verified) : null),
    one.to !== null ? button("Go back …", () => goBack(one), { class: "small", "aria-label": `Go back to ${called(one)} …`, dataset: { key: `${one.what}-${one.generation}-${one.to}` } }) : h("span"));
}

function called(one) {
  return one.what === "Checkpoint" ? `checkpoint step ${count(one.step)}` : `snapshot ${one.title}`;
}

const LATER = [
  ["again", "Is trained again", "in the same order, under the same settings"],
  ["queue", "Waits in the queue", "and is trained under the settings of today"],
  ["shelve", "Is set aside", "and is not trained again by itself"],
];

async function goBack(one) {
  const later = choice("later", "What was learned after it", LATER, "again");
  const done = await agree({
    path: "/api/rollback",
    body: () => ({ to: one.to, later: later.querySelector("input:checked").value }),
    title: `Go back to ${called(one)}?`,
    action: "Go back",
    choices: later,
  });
  if (done) load();
}

async function undo() {
  const done = await agree({
    path: "/api/rollback",
    body: () => ({ to: "undo", later: "again" }),
    title: "Undo the last change of the history?",
    action: "Undo it",
  });
  if (done) load();
}

/** Do something that takes a while; gives whether it was done. */
async function job(pressedButton, path, body) {
  pressedButton.disabled = true;
  let done = false;
  try {
    done = (await followJob(await post(path, body))).state === "done";
  } catch (error) {
    complain(error);
  } finally {
    pressedButton.disabled = false;
  }
  load();
  return done;
}

async function verify(event) {
  const pressedButton = event.currentTarget;
  const body = "Every byte that was saved is read and compared with its hash. Training goes on meanwhile; on large models this takes some minutes. It can be given up.";
  if (await confirm({ title: "Verify all saved states?", body, action: "Verify all" })) job(pressedButton, "/api/verify", {});
}

part("undo").addEventListener("click", undo);
part("verify").addEventListener("click", verify);
part("take").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = part("snapshot-name").value.trim();
  const done = await job(event.submitter ?? part("take").querySelector("button"), "/api/snapshot", { name: name || null });
  if (done) part("snapshot-name").value = "";
});
listen({
  changed: ({ what }) => what.includes("saved") && load(),
  job: (job) => isOver(job) && load(), // begun in another tab, or before this page was loaded
  connection: whenOpen(load),
});
load();
