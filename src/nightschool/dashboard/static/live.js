// What is new, as it happens: `listen({now, steps, events, changed, job, trouble, connection})`.
import { get } from "./ask.js";
import { Stream, noteJob } from "./stream.js";
import { setOffset } from "./words.js";

const QUIET_MS = 20_000;
const listeners = new Set();
const jobs = new Map();
let leave = null;
let connection = null;
let { now, problem } = firstLook();
let heard = 0;
let watch = null;
// Before anybody says a time: all are those of the machine.
if (now) setOffset(now.utc_offset);

/** What the page came with, so that it can be drawn before anything is asked. */
function firstLook() {
  const block = document.getElementById("first");
  return block === null ? { now: null, problem: null } : JSON.parse(block.textContent);
}

/**
 * Have these called with what the server sends: `now` (Now), `steps` (Curve), `events` (Events), `changed` ({what}),
 * `job` (Job), `trouble` (Trouble: what the server itself cannot find out), and `connection` ("open" or "lost"). Whoever joins later is told the last `now`, and the jobs
 * that have not ended, at once. Gives a function that ends it.
 */
export function listen(calls) {
  listeners.add(calls);
  if (leave === null) begin();
  if (connection) calls.connection?.(connection);
  if (now) calls.now?.(now);
  else if (problem) calls.trouble?.({ error: problem });
  for (const job of jobs.values()) calls.job?.(job);
  return () => listeners.delete(calls);
}

function tell({ type, data }) {
  heard = Date.now();
  if (type === "connection") connection = data;
  if (type === "now") {
    now = data;
    setOffset(now.utc_offset);
  }
  if (type === "trouble") problem = data.error;
  if (type === "job") noteJob(jobs, data);
  for (const calls of [...listeners]) {
    try {
      calls[type]?.(data);
    } catch (error) {
      // One part of the page that fails must not silence the others.
      console.error(error);
    }
  }
}

function begin() {
  leave = shared() ?? alone();
  heard = Date.now();
  watch = setInterval(lookAnyway, QUIET_MS / 2);
}

function end() {
  clearInterval(watch);
  leave?.();
  leave = null;
}

function shared() {
  if (typeof SharedWorker === "undefined") return null;
  try {
    const worker = new SharedWorker("/static/live-worker.js", { type: "module", name: "nightschool-live" });
    let instead = null;
    worker.addEventListener("error", () => {
      instead ??= alone();
    });
    worker.port.addEventListener("message", ({ data }) => tell(data));
    worker.port.start();
    return () => {
      worker.port.postMessage("bye");
      instead?.();
    };
  } catch {
    return null;
  }
}

function alone() {
  const stream = new Stream(tell);
  stream.open();
  return () => stream.close();
}

// A stream can hang without an error: behind a proxy, or after the machine has slept.
async function lookAnyway() {
  if (document.hidden || Date.now() - heard < QUIET_MS) return;
  try {
    const found = await get("/api/now");
    if (connection === "lost") tell({ type: "connection", data: "open" });
    tell({ type: "now", data: found });
  } catch {
    tell({ type: "connection", data: "lost" });
  }
}

// A page that goes must say so, or the worker would hold its stream; one that comes back from the cache joins again.
addEventListener("pagehide", end);
addEventListener("pageshow", (event) => {
  if (event.persisted && leave === null && listeners.size) begin();
});
document.addEventListener("visibilitychange", lookAnyway);
