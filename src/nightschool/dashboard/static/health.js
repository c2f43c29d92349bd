// The page Health: what was found, what the machine stands on, its settings and its log.

import { get } from "./ask.js";
import { button, facts, looked, oneAtATime, whenOpen } from "./bits.js";
import { fill, h, sentence } from "./dom.js";
import { listen } from "./live.js";
import { LogView } from "./log.js";
import { bytes, capital, count, ended, share, when } from "./words.js";

const EVERY_MS = 20_000;
const ORDER = ["trouble", "watch", "good"];
const CALLED = { trouble: "Trouble", watch: "Worth a look", good: "Good" };
const part = (id) => document.getElementById(id);

const load = oneAtATime(async () => {
  try {
    draw(await get("/api/health"));
    fill(part("health-trouble"));
  } catch (error) {
    fill(part("health-trouble"), h("p", { class: "note trouble" }, sentence(error.message)), button("Try again", load));
  }
  looked();
});

function draw(found) {
  drawFindings(found.findings);
  fill(
    part("amounts"),
    amount("Disk", found.disk, "of the workspace's disk", 0.9),
    amount("GPU memory", found.gpu, "of the GPU's memory", 1.01),
    amount("Memory", found.memory, "of the computer's memory", 0.95),
  );
  fill(part("machine-facts"), facts(
    ["Memory of the trainer", found.trainer_bytes !== null && bytes(found.trainer_bytes)],
    ["Restarts of the trainer", found.restarts === 0 ? "none" : count(found.restarts)],
    ["Hours", found.hours && sentence(found.hours)],
    ["Notifications", found.notify && sentence(found.notify)],
  ));
  const events = found.last_trouble.map((event) => h("li", null, h("span", { class: "soft at" }, when(event.at)), h("span", null, sentence(event.text))));
  fill(part("last-trouble"), events.length ? h("ol", { class: "events" }, events) : h("p", { class: "soft" }, "Nothing went wrong that was written down."));
  drawSettings(found.settings);
}

function drawFindings(findings) {
  const sorted = [...findings].sort((a, b) => ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict));
  const of = (verdict) => findings.filter((one) => one.verdict === verdict).length;
  const words = of("trouble") ? `${count(of("trouble"), "thing")} in trouble.` : of("watch") ? `Nothing is in trouble; ${count(of("watch"), "thing")} ${of("watch") === 1 ? "is" : "are"} worth a look.` : "All is well.";
  fill(part("verdict"), findings.length ? words : "Nothing was looked at yet.");
  part("verdict").classList.toggle("trouble", of("trouble") > 0);
  const one = (finding) =>
    h("li", { class: `finding ${finding.verdict}` },
      h("span", { class: finding.verdict === "trouble" ? "tag trouble" : finding.verdict === "watch" ? "tag now" : "tag" }, CALLED[finding.verdict] ?? finding.verdict),
      h("div", null,
        h("p", null, h("strong", null, capital(finding.name)), ": ", sentence(ended(finding.text))),
        finding.advice ? h("p", { class: "advice" }, sentence(ended(finding.advice))) : null));
  fill(part("findings"), sorted.map(one));
}

function amount(name, { used, total }, of, high) {
  const known = used !== null && total !== null && total > 0;
  const words = known ? `${bytes(used)} of ${bytes(total)} used, ${bytes(Math.max(0, total - used))} free` : total !== null && total > 0 ? `${bytes(total)} in all` : "none, or not known";
  const bar = known
    ? h("div", { class: used / total >= high ? "bar trouble" : "bar", role: "img", "aria-label": `${share(used, total)} ${of} used` }, h("span", { style: { "--share": `${Math.min(100, (100 * used) / total)}%` } }))
    : h("div", { class: "bar", "aria-hidden": "true" });
  return h("div", { class: "amount" }, h("div", { class: "head" }, h("h3", null, name), h("span", { class: "soft" }, known ? share(used, total) : "")), bar, h("p", { class: "soft small" }, words));
}

function drawSettings(settings) {
  const line = (one) =>
    h("tr", null,
      h("td", null, h("code", null, one.name)),
      h("td", { "data-what": "Value", class: "value" }, one.value),
      h("td", { class: "soft", "data-what": "From" }, one.source),
      h("td", { class: "soft", "data-what": "A change takes effect" }, one.effect));
  fill(part("settings"), settings.map(line));
}

const log = new LogView();
part("log").replaceWith(log.node);
listen({ changed: load, connection: whenOpen(load) });
setInterval(() => document.hidden || load(), EVERY_MS);
load();
