// What the views say: states, amounts of work, and what a change of the past comes to.

import { h } from "./dom.js";
import { count, duration } from "./words.js";

const STATES = {
  arrived: "just arrived",
  archived: "waits to be read",
  ready: "waits",
  training: "in training",
  skipped: "its rest waits",
  trained: "trained, saved soon",
  learned: "learned",
  duplicate: "same as another",
  rejected: "rejected",
  set_aside: "set aside",
  forgotten: "forgotten",
  again: "trained once more",
  interrupted: "interrupted, goes on later",
  leaving: "leaves the queue",
};

/** The states of files, in the order in which a file goes through them. */
export const ALL_STATES = Object.keys(STATES).slice(0, 11);

/** A state of a file as people say it; a word that is not known stays as it is. */
export function stateOf(word) {
  return STATES[word] ?? String(word).replaceAll("_", " ");
}

/** `about 300 steps, about 25 min`; empty where nothing is known. Times are always estimates. */
export function work(steps, seconds, estimated) {
  const parts = [];
  if (steps !== null) parts.push(`${estimated ? "about " : ""}${count(steps, "step")}`);
  if (seconds !== null) parts.push(`about ${duration(seconds)}`);
  return parts.join(", ");
}

/** The time that the rest of `total` bytes takes, after `sent` took `seconds`; null while that cannot be said. */
export function timeLeft(sent, total, seconds) {
  return sent > 0 && seconds >= 1 ? ((total - sent) * seconds) / sent : null;
}

/** Seconds from `at` to the next time that the machine's clock, `offset` seconds ahead of UTC, shows this hour. */
export function untilHour(hour, at, offset) {
  const day = 86_400;
  const now = (Math.floor(Date.parse(at) / 1000) + offset) % day;
  return ((hour * 3600 - now + 2 * day - 1) % day) + 1;
}

const LATER = {
  again: "They are trained again, in the same order and under the same settings.",
  queue: "They go back to the queue, and are trained again under today's settings.",
  shelve: "They are set aside, and are not trained again by themselves.",
};
const SHOWN = 8;

/** What a change of the past comes to: nodes for a dialog. */
export function planShown(plan, forgetting = false) {
  const start = plan.start === null ? "the base model" : plan.start;
  const way = plan.then > plan.now ? "On to" : "Back to";
  const parts = [h("p", null, `${way} ${start} (step ${count(plan.then)}). The run stands at step ${count(plan.now)} now.`)];
  if (plan.revived.length) {
    parts.push(h("p", null, "A part of the run again, though forgotten or set aside before:"), listed(plan.revived));
  }
  if (plan.undone.length) {
    const steps = count(plan.now - plan.kept, "step");
    parts.push(h("p", { class: "undone" }, `${steps} undone, of ${count(plan.undone.length, "file")}:`));
    parts.push(listed(plan.undone.map((one) => `${one.name}: ${count(one.steps)} of ${count(one.of, "step")}`)));
    if (!forgetting && (plan.redo || plan.later !== "again")) parts.push(h("p", null, LATER[plan.later] ?? ""));
  } else {
    parts.push(h("p", null, "Nothing that was learned is undone."));
  }
  if (plan.redo) {
    const time = plan.seconds === null ? "" : `, about ${duration(plan.seconds)}`;
    parts.push(h("p", null, `Then ${count(plan.redo, "step")} to train again${time}.`));
  }
  if (plan.purge.length) {
    parts.push(h("p", { class: "trouble" }, `Removed for good, ${count(plan.purge.length, "thing")}:`), listed(plan.purge));
  }
  const back = plan.undoable
    ? "You can take this back afterwards: “Undo the last change” on the page Checkpoints."
    : "This cannot be taken back.";
  parts.push(h("p", { class: plan.undoable ? "soft" : "trouble" }, back));
  return parts;
}

function listed(lines) {
  const items = lines.slice(0, SHOWN).map((line) => h("li", null, line));
  if (lines.length > SHOWN) items.push(h("li", { class: "soft" }, `and ${count(lines.length - SHOWN)} more`));
  return h("ul", { class: "plan-list" }, items);
}
