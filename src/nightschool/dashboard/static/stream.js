// The server's events, from whichever thread listens. Messages are {type, data}; `connection` is "open" or "lost",
// `trouble` a sentence of the server about what it cannot tell.

const TYPES = ["now", "steps", "events", "changed", "job", "trouble"];
const ALL = ["curve", "queue", "files", "saved", "events"];
const AGAIN_MS = 3000;

/** Whether a job has ended. */
export function isOver(job) {
  return job.state === "done" || job.state === "failed" || job.state === "given up";
}

/** Note a job among those that have not ended, by id. */
export function noteJob(jobs, job) {
  if (isOver(job)) jobs.delete(job.id);
  else jobs.set(job.id, job);
}

export class Stream {
  /** `tell` is given every message. */
  constructor(tell) {
    this.tell = tell;
    this.source = null;
    this.timer = null;
    this.connection = null;
    this.now = null;
    this.place = null;
    this.jobs = new Map();
    this.broken = false;
  }

  /** What somebody who joins later has missed. */
  greeting() {
    const known = this.now && this.connection === "open" ? [{ type: "now", data: this.now }] : [];
    const jobs = [...this.jobs.values()].map((data) => ({ type: "job", data }));
    return this.connection ? [{ type: "connection", data: this.connection }, ...known, ...jobs] : [];
  }

  open() {
    if (this.source !== null || this.timer !== null) return;
    const source = (this.source = new EventSource(this.place ? `/api/live?after=${encodeURIComponent(this.place)}` : "/api/live"));
    source.addEventListener("open", () => {
      this.jobs.clear(); // all that go on are told anew
      this.turn("open");
      // Without the place of the last event nobody knows what was missed: all is fetched anew.
      if (this.broken && !this.place) this.tell({ type: "changed", data: { what: ALL } });
      this.broken = false;
    });
    source.addEventListener("error", () => {
      this.turn("lost");
      // A browser tries again by itself after a lost connection, with the last number; not after a refusal.
      if (source.readyState !== EventSource.CLOSED) return;
      this.broken = true;
      this.source = null;
      this.timer = setTimeout(() => {
        this.timer = null;
        this.open();
      }, AGAIN_MS);
    });
    for (const type of TYPES) {
      source.addEventListener(type, (event) => {
        const data = JSON.parse(event.data);
        if (event.lastEventId) this.place = event.lastEventId;
        if (type === "now") this.now = data;
        if (type === "job") noteJob(this.jobs, data);
        this.tell({ type, data });
      });
    }
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    // Who opens it again begins with what is true then.
    Object.assign(this, { source: null, timer: null, connection: null, now: null, place: null, jobs: new Map(), broken: false });
  }

  turn(connection) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.tell({ type: "connection", data: connection });
  }
}
