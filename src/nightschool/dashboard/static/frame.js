// The header and the state line, on all pages.
import { fill, put, sentence } from "./dom.js";
import { listen } from "./live.js";
import { capital, clock, count, ended, foreseen, loss, share, since, zone } from "./words.js";

const MOODS = {
  training: "now",
  saving: "now",
  preparing: "now",
  starting: "now",
  restarting: "trouble",
  failed: "trouble",
  "waiting for disk": "trouble",
};
const part = (name) => document.getElementById(name);
let lost = null;
let latest = null;
let trouble = null;

function showNow(now) {
  latest = now;
  lost = trouble = null;
  draw();
}

function showConnection(connection) {
  if (connection === "lost") lost ??= new Date();
  else lost = null;
  draw();
}

function showTrouble(found) {
  trouble = found.error;
  draw();
}

function draw() {
  if (lost !== null) drawLost();
  else if (trouble !== null) drawTrouble();
  else if (latest !== null) drawState(latest);
}

function drawLost() {
  part("state").dataset.mood = "trouble";
  put(part("state-word"), "No answer");
  put(part("state-since"), since(lost, new Date()));
  const shown = latest === null ? "" : `What you see is from ${clock(latest.at)}. `;
  reason(`${shown}The page's server is gone or cannot be reached; it is asked again every few seconds. \`nightschool run\` starts it.`);
  part("state-file").hidden = true;
  title("No answer");
}

function drawTrouble() {
  part("state").dataset.mood = "trouble";
  put(part("state-word"), "Not known");
  put(part("state-since"), latest === null ? "" : `last seen ${clock(latest.at)}`);
  reason(ended(capital(trouble)));
  part("state-file").hidden = true;
  title("Not known");
}

function drawState({ status, at, file_step, file_steps, file_seconds, version }) {
  part("state").dataset.mood = MOODS[status.state] ?? "quiet";
  put(part("state-word"), capital(status.state));
  put(part("state-since"), since(status.since, at));
  // While it trains the reason is the file's name, which stands beside it.
  const why = status.reason === status.current_file ? "" : status.reason;
  reason([why, status.settings_problem].filter(Boolean).map((text) => ended(capital(text))).join(" "));
  const named = Boolean(status.current_file) && file_steps > 0;
  // On a phone the room for the file is kept while there is one to come: nothing moves between two files.
  part("state").toggleAttribute("data-rests", !status.current_file && !(status.queued && status.pid));
  part("state-file").hidden = !named;
  if (named) {
    put(part("state-name"), status.current_file);
    part("state-name").title = status.current_file;
    part("state-progress").value = file_step / file_steps;
    put(part("state-done"), `${count(file_step)} of ${count(file_steps, "step")}`);
    put(part("state-left"), foreseen(file_seconds, at) || `${share(file_step, file_steps)} done`);
  }
  put(part("version"), [zone() && `times are those of the machine, ${zone()}`, `nightschool ${version}`].filter(Boolean).join("; "));
  title(capital(status.state), status.state === "training" && status.loss !== null ? `loss ${loss(status.loss)}` : "");
}

function reason(text) {
  const line = part("state-reason");
  if (line.dataset.text === text) return;
  line.dataset.text = text;
  line.title = text.replaceAll("`", "");
  fill(line, sentence(text));
}

function title(...words) {
  const text = [...words, "nightschool"].filter(Boolean).join(" · ");
  if (document.title !== text) document.title = text;
}

// --- colours ---

const THEMES = { system: "as the system", light: "light", dark: "dark" };

function theme() {
  return document.documentElement.dataset.theme ?? "system";
}

function drawTheme() {
  const button = part("theme");
  put(button, `Colours: ${theme()}`);
  button.title = `The colours are ${THEMES[theme()]}. Press to change them.`;
}

function turnTheme() {
  const all = Object.keys(THEMES);
  const next = all[(all.indexOf(theme()) + 1) % all.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("nightschool-theme", next);
  } catch {
    // Storage may be forbidden; then the choice lasts until the page is left.
  }
  drawTheme();
  // The chart's colours are not those of a sheet: it draws them itself.
  dispatchEvent(new Event("themechange"));
}

part("theme").addEventListener("click", turnTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
drawTheme();
listen({ now: showNow, trouble: showTrouble, connection: showConnection });
