// The log's end: searched, older lines on request, new lines as they come while its end is in sight.

import { get } from "./ask.js";
import { button, oneAtATime, settled } from "./bits.js";
import { complain } from "./dialog.js";
import { fill, h, put } from "./dom.js";
import { count } from "./words.js";

const EVERY_MS = 2000;
const LINES = 200;
const ROUNDS = 10; // a search that finds little looks further back by itself so often, then on request
const ENOUGH = 20;
const MOST = 5000; // lines that are kept on the page

/** The log. */
export class LogView {
  constructor() {
    this.lines = [];
    this.before = null;
    this.search = "";
    const input = h("input", { type: "search", autocomplete: "off", spellcheck: "false", maxlength: 200, placeholder: "a part of a line" });
    input.addEventListener("input", settled(() => this.ask(input.value), 250));
    this.older = button("Older lines", () => this.more(), { class: "small", disabled: true });
    this.list = h("ol", { class: "lines" });
    this.box = h("div", { class: "log", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Lines of the log" }, this.list);
    this.words = h("span", { class: "soft small" });
    this.down = button("To the newest line", () => this.end(), { class: "small", hidden: true });
    this.node = h("div", null,
      h("form", { role: "search", class: "log-tools", on: { submit: (event) => event.preventDefault() } }, h("label", { class: "field" }, "Search in the log ", input), this.older),
      this.box, h("p", { class: "log-foot" }, this.words, this.down));
    this.box.addEventListener("scroll", () => this.tell());
    this.follow = oneAtATime(() => this.look());
    this.follow();
    setInterval(() => this.following() && !document.hidden && this.follow(), EVERY_MS);
  }

  /** Whether the newest line is in sight: only then are new ones shown. */
  following() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
  }

  end() {
    this.box.scrollTop = this.box.scrollHeight;
    this.follow();
  }

  async ask(search) {
    this.search = search; // a space at its end is a part of it
    this.lines = [];
    this.before = null;
    fill(this.list);
    await this.follow();
    for (let round = 0; round < ROUNDS && this.search && this.lines.length < ENOUGH && this.before !== null; round += 1) await this.more();
    this.end();
  }

  async look() {
    if (!this.following()) return; // asked for while another look was under way, and scrolled away since
    const asked = this.search;
    let found;
    try {
      found = await get("/api/log", { search: asked, limit: LINES });
    } catch (error) {
      put(this.words, error.message);
      return;
    }
    if (asked !== this.search) return;
    const last = this.lines.at(-1);
    const at = found.lines.findLastIndex((line) => last && line.at === last.at && line.text === last.text);
    if (at >= 0) {
      if (at + 1 < found.lines.length) this.append(found.lines.slice(at + 1));
    } else if (asked && last && (!found.lines.length || found.lines[0].at > last.at)) {
      this.append(found.lines); // a search looks at the newest part only, and what was found before lies behind that
    } else {
      // The first look, another log, or more new lines than were asked for.
      this.lines = found.lines;
      this.before = found.before;
      fill(this.list, this.lines.map(shown));
      this.box.scrollTop = this.box.scrollHeight;
    }
    this.tell();
  }

  append(lines) {
    const follow = this.following();
    this.lines = [...this.lines, ...lines];
    this.list.append(...lines.map(shown));
    while (this.lines.length > MOST) {
      this.lines.shift();
      this.list.firstChild.remove();
      this.before = this.lines[0].at;
    }
    if (follow) this.box.scrollTop = this.box.scrollHeight;
  }

  async more() {
    const asked = this.search;
    this.older.disabled = true;
    try {
      const found = await get("/api/log", { search: asked, limit: LINES, before: this.before });
      if (asked !== this.search) return;
      const below = this.box.scrollHeight - this.box.scrollTop;
      this.lines = [...found.lines, ...this.lines];
      this.before = found.before;
      this.list.prepend(...found.lines.map(shown));
      this.box.scrollTop = this.box.scrollHeight - below;
    } catch (error) {
      complain(error);
    }
    this.tell();
  }

  tell() {
    this.older.disabled = this.before === null;
    this.down.hidden = this.following();
    const none = this.search ? (this.before === null ? "No line has that in it." : "No newer line has that in it.") : "The log is empty: the machine has not written to it yet.";
    const way = this.following() ? "New lines are shown as they come." : "New lines wait at the end.";
    put(this.words, this.lines.length ? `${count(this.lines.length, "line")}. ${way}` : none);
  }
}

function shown(line) {
  const trouble = /\b(error|failed|trouble|critical|damaged|out of memory)\b/i.test(line.text);
  return h("li", { class: trouble ? "trouble" : false }, line.text);
}
