// Numbers and times as people say them. Every function takes null for what is not known, and gives "–".

const UNKNOWN = "–";
const THIN = "\u202f"; // between a number and its unit: never broken, and narrow
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function missing(value) {
  return value === null || value === undefined || !Number.isFinite(value);
}

/** `1,234`; with a word `1,234 steps`, `1 step`. */
export function count(number, one = "", many = one && `${one}s`) {
  if (missing(number)) return UNKNOWN;
  return one ? `${grouped.format(number)} ${Math.round(number) === 1 ? one : many}` : grouped.format(number);
}

/** A count with few digits: `950`, `12.4 thousand`, `3.1 million`. */
export function many(number, what = "") {
  if (missing(number)) return UNKNOWN;
  const tail = what && ` ${what}`;
  for (const [size, word] of [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"]]) {
    if (number >= size * 0.99995) return `${digits(number / size, 3)} ${word}${tail}`;
  }
  return grouped.format(number) + tail;
}

/** A size: `512 B`, `1.5 MB`, powers of 1000, as the command line says it. */
export function bytes(number) {
  if (missing(number)) return UNKNOWN;
  let rest = number;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(rest) < 999.5) return `${unit === "B" ? Math.round(rest) : digits(rest, 3)}${THIN}${unit}`;
    rest /= 1000;
  }
  return `${rest < 100 ? rest.toFixed(1) : grouped.format(rest)}${THIN}TB`;
}

/** A time that something took: `40 s`, `12 min`, `3 h 20 min`, `2 days 4 h`. */
export function duration(seconds) {
  if (missing(seconds)) return UNKNOWN;
  const all = Math.max(0, seconds);
  if (all < 9.95 && all % 1) return `${all.toFixed(1)}${THIN}s`;
  if (all < 99.5) return `${Math.round(all)}${THIN}s`;
  const minutes = Math.round(all / 60);
  if (minutes < 100) return `${minutes}${THIN}min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours}${THIN}h ${minutes % 60}${THIN}min` : `${hours}${THIN}h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} days ${hours % 24}${THIN}h` : `${days} days`;
}

/** A time that is only foreseen: `a minute`, `12 min`, `3½ h`, `14 h`, `3 days`. */
export function roughly(seconds) {
  if (missing(seconds)) return UNKNOWN;
  if (seconds < 90) return "a minute";
  if (seconds < 57.5 * 60) return `${minutesRounded(seconds / 60)}${THIN}min`;
  const halves = Math.round(seconds / 1800);
  if (halves < 20) return `${Math.floor(halves / 2) || ""}${halves % 2 ? "½" : ""}${THIN}h`;
  const hours = Math.round(seconds / 3600);
  return hours < 48 ? `${hours}${THIN}h` : `${Math.round(hours / 24)} days`;
}

function minutesRounded(minutes) {
  return minutes < 20 ? Math.round(minutes) : Math.round(minutes / 5) * 5;
}

/** `about 3 h left, done near 01:30`; `at` is the time it is now. */
export function foreseen(seconds, at = new Date()) {
  if (missing(seconds)) return "";
  const end = new Date(+new Date(at) + seconds * 1000);
  const step = (seconds < 1200 ? 1 : seconds < 5400 ? 5 : seconds < 36000 ? 10 : 30) * 60_000;
  const near = new Date(Math.round(+end / step) * step);
  const far = seconds > 20 * 3600;
  return `about ${roughly(seconds)} left, done near ${far ? `${day(near, at)}, ${clock(near)}` : clock(near)}`;
}

// --- times of day: those of the machine, which is where the nights are ---

let offset = null;

/** What the machine's local time is ahead of UTC, in seconds. */
export function setOffset(seconds) {
  // Where the reader's zone has the same time now, it also knows summer time for the days before.
  offset = seconds === -new Date().getTimezoneOffset() * 60 ? null : seconds;
}

/** `UTC`, `UTC+2`, `UTC−3:30` where the machine's time is not the reader's; empty where it is. */
export function zone() {
  if (offset === null) return "";
  if (offset === 0) return "UTC";
  const minutes = Math.round(Math.abs(offset) / 60);
  return `UTC${offset < 0 ? "−" : "+"}${Math.floor(minutes / 60)}${minutes % 60 ? `:${two(minutes % 60)}` : ""}`;
}

function local(time) {
  const moment = new Date(time);
  return offset === null ? new Date(+moment - moment.getTimezoneOffset() * 60_000) : new Date(+moment + offset * 1000);
}

const two = (number) => String(number).padStart(2, "0");
const WEEKDAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "June", "July", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** `22:04` */
export function clock(time) {
  if (time === null || time === undefined) return UNKNOWN;
  const moment = local(time);
  return `${two(moment.getUTCHours())}:${two(moment.getUTCMinutes())}`;
}

/** `today`, `yesterday`, `Monday`, `22 Nov`, `22 Nov 2025` */
export function day(time, at = new Date()) {
  if (time === null || time === undefined) return UNKNOWN;
  const [then, now] = [local(time), local(at)];
  const ago = Math.floor(+now / 86_400_000) - Math.floor(+then / 86_400_000);
  if (ago === 0) return "today";
  if (ago === 1) return "yesterday";
  if (ago === -1) return "tomorrow";
  if (Math.abs(ago) < 7) return WEEKDAYS[then.getUTCDay()];
  const date = `${then.getUTCDate()} ${MONTHS[then.getUTCMonth()]}`;
  return then.getUTCFullYear() === now.getUTCFullYear() ? date : `${date} ${then.getUTCFullYear()}`;
}

/** `22:04` of today, `yesterday 22:04`, `Monday 22:04`, `22 Nov, 22:04` */
export function when(time, at = new Date()) {
  if (time === null || time === undefined) return UNKNOWN;
  const date = day(time, at);
  if (date === "today") return clock(time);
  return `${date}${/\d/.test(date) ? "," : ""} ${clock(time)}`;
}

/** `since 22:04`, `since yesterday 22:04` */
export function since(time, at = new Date()) {
  return time ? `since ${when(time, at)}` : "";
}

/** `just now`, `12 min ago`, `3 h ago`, `2 days ago` */
export function ago(time, at = new Date()) {
  if (time === null || time === undefined) return UNKNOWN;
  const seconds = (+new Date(at) - +new Date(time)) / 1000;
  return seconds < 60 ? "just now" : `${roughly(seconds)} ago`;
}

// --- figures of training ---

/** A loss in nats per token: `1.92`, `0.0123`, `12.3`. */
export function loss(number) {
  if (missing(number)) return UNKNOWN;
  return Math.abs(number) >= 0.1 && Math.abs(number) < 100 ? number.toFixed(2) : digits(number, 3);
}

/** Training speed: `2,140 tokens/s` */
export function rate(tokensPerSecond) {
  if (missing(tokensPerSecond)) return UNKNOWN;
  const few = tokensPerSecond < 10 ? digits(tokensPerSecond, 2) : grouped.format(tokensPerSecond);
  return `${few} tokens/s`;
}

/** A learning rate: `1e-4`, `2.5e-5`, `0` */
export function learningRate(number) {
  if (missing(number)) return UNKNOWN;
  return number === 0 ? "0" : number.toExponential(2).replace(/\.?0+e/, "e");
}

/** A part of a whole, in per cent: `48 %`; never 100 before it is. */
export function share(part, whole) {
  if (missing(part) || missing(whole) || whole <= 0) return UNKNOWN;
  const percent = (100 * part) / whole;
  return `${percent > 99 && percent < 100 ? 99 : Math.round(percent)}${THIN}%`;
}

/** The state word as a heading: `Waiting for disk` */
export function capital(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : "";
}

/** As a sentence, with a full stop where nothing ends it yet. */
export function ended(text) {
  const said = (text ?? "").trimEnd();
  return !said || /[.!?:…]["'”)`]*$/.test(said) ? said : `${said}.`;
}

function digits(number, significant) {
  const shown = number.toPrecision(significant);
  return shown.includes("e") ? shown : shown.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}
