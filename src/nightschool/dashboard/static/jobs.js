// What takes a while: how it goes, giving it up, and how it ended; on all pages and in all tabs, whoever began it.

import { get, remove } from "./ask.js";
import { complain, say } from "./dialog.js";
import { fill, h, put, sentence } from "./dom.js";
import { listen } from "./live.js";
import { isOver } from "./stream.js";

const EVERY_MS = 3000;
const going = new Map(); // those that have not ended, each with what is shown of it
const over = new Map();
const waiting = new Map();
let timer = null;

/** Show how a job goes until it ends. Resolves to the Job as it ended: `done`, `failed` or `given up`. */
export function followJob(job) {
  return new Promise((resolve) => {
    if (over.has(job.id)) return resolve(over.get(job.id));
    waiting.set(job.id, [...(waiting.get(job.id) ?? []), resolve]);
    look(job);
  });
}

function look(job) {
  if (over.has(job.id)) return; // news may come late, and from two sides
  if (isOver(job)) end(job);
  else show(job);
  if (going.size && timer === null) timer = setInterval(askAll, EVERY_MS);
  if (going.size) return;
  clearInterval(timer);
  timer = null;
}

function end(job) {
  over.set(job.id, job);
  const line = going.get(job.id)?.line;
  if (line) leave(line);
  line?.remove();
  going.delete(job.id);
  say(job.said ?? `${job.what}: ${job.state}.`, { trouble: job.state === "failed" });
  for (const resolve of waiting.get(job.id) ?? []) resolve(job);
  waiting.delete(job.id);
}

function show(job) {
  const { words, more, button } = going.get(job.id)?.parts ?? begin(job);
  put(words, `${job.what} …`);
  const told = job.told.at(-1) ?? (job.state === "waiting" ? "It waits until what was begun before has ended." : "");
  if (more.dataset.told !== told) fill(more, sentence((more.dataset.told = told)));
  if (!job.can_give_up) leave(button);
  button.hidden = !job.can_give_up;
}

/** Whoever stood on what goes, with the keyboard, stands in the page afterwards, and not nowhere. */
function leave(node) {
  if (node.contains(document.activeElement)) document.getElementById("main").focus({ preventScroll: true });
}

function begin(job) {
  const parts = { words: h("strong", null), more: h("span", null), button: h("button", { type: "button", on: { click: () => giveUp(job.id, parts.button) } }, "Give up") };
  const line = h("li", null, h("span", null, parts.words, " ", parts.more), parts.button);
  going.set(job.id, { line, parts });
  document.getElementById("jobs").append(line);
  return parts;
}

async function giveUp(id, button) {
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true"); // `disabled` would take the focus from it
  try {
    look(await remove(`/api/jobs/${encodeURIComponent(id)}`));
  } catch (error) {
    complain(error);
    button.removeAttribute("aria-disabled");
  }
}

// The stream may be broken when one ends, and the page may have been started anew since.
function askAll() {
  for (const [id, { parts }] of going) {
    const lost = ({ status, message }) => status === 404 && look({ id, what: parts.words.textContent, state: "failed", told: [], said: message });
    get(`/api/jobs/${encodeURIComponent(id)}`).then(look, lost);
  }
}

listen({ job: look });
