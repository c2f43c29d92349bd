// The loss curve as something to look at: zoom, pointer, keys, and new steps as they come.
import { get } from "./ask.js";
import { tell } from "./card.js";
import { append, halfLife, nearest } from "./columns.js";
import { put } from "./dom.js";
import { figure, places, scales } from "./figure.js";
import { sketch } from "./sketch.js";
import { count } from "./words.js";

const POINTS = 1200;
const LEAST_STEPS = 12;
const FINER_AFTER_MS = 160;
const REDRAW_MS = 1000;
const CONFIG = { displayModeBar: false, doubleClick: false, showTips: false, scrollZoom: false, displaylogo: false };
const NOTHING = { files: [], files_left_out: 0, marks: [], marks_left_out: 0 };

/** Plotly, once its script has come. It is fetched from the beginning, and begun when the curve can be seen. */
export function plotly() {
  if (globalThis.Plotly) return Promise.resolve(globalThis.Plotly);
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.addEventListener("load", () => resolve(globalThis.Plotly));
    script.addEventListener("error", () => reject(new Error("The script that draws the curve did not come. Load the page again.")));
    script.src = document.getElementById("plotly").href;
    document.head.append(script);
  });
}

const painted = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));

export class Chart {
  /** `parts`: elements {box, card, line, said}; `changed` is called after what is seen has changed. */
  constructor(parts, changed) {
    Object.assign(this, parts);
    this.changed = changed;
    this.all = null;
    this.fine = null;
    this.half = null;
    this.marks = NOTHING;
    this.range = null;
    this.along = "step";
    this.log = false;
    this.live = false;
    this.hidden = new Set();
    this.small = false;
    this.cursor = null;
    this.drawnAt = 0;
    this.timer = null;
    this.asking = null;
    this.finer = null;
    this.plotly = null;
    this.measured = new Map();
    this.listenTo();
  }

  // --- what is shown ---

  /** The whole curve, and its marks. The first time draws at once, and what is below a frame later. */
  async begin(all, marks) {
    const first = this.plotly === null;
    this.all = all;
    this.fine = null;
    this.marks = marks;
    if (first) {
      this.sketch();
      // In a hidden tab nothing is ever painted; then there is nothing to wait for.
      if (!document.hidden) await painted();
      performance.mark("curve");
      this.plotly = await plotly();
    }
    if (this.range !== null && this.range.first >= all.last - LEAST_STEPS) this.range = null;
    await this.draw();
    if (!first) {
      this.refine();
      return;
    }
    this.sketched.remove();
    performance.mark("chart");
    requestAnimationFrame(() =>
      setTimeout(() => {
        this.small = true;
        this.draw();
      }),
    );
  }

  /** New marks of the same curve. */
  remark(marks) {
    this.marks = marks;
    this.later();
  }

  /** New steps. Gives false where the curve is to be read anew. */
  add(steps) {
    const before = this.all.steps_done;
    const added = append(this.all, steps);
    if (added < 0) return false;
    if (this.fine !== null && this.fine.last >= before && append(this.fine, steps, this.half) < 0) this.fine = null;
    // What is seen moves on with the end; what has been left behind is let go.
    if (this.fine !== null && this.fine.step.length > POINTS * 3) {
      this.fine = null;
      this.refine();
    }
    const files = this.marks.files;
    if (files.length) files.at(-1).last = Math.max(files.at(-1).last, this.all.last);
    if (this.range !== null && this.range.last >= before) {
      this.range = { first: this.range.first + added, last: this.range.last + added };
    }
    if (added) this.later();
    // Where it has grown by half, it is drawn from finer points than are seen: read it anew.
    return this.all.step.length < POINTS * 1.5;
  }

  /** Set any of `along`, `log`, `live`. */
  set(values) {
    if (Object.entries(values).every(([name, value]) => this[name] === value)) return;
    Object.assign(this, values);
    this.draw();
  }

  /** Show or hide a kind of marks. */
  toggle(kind, shown) {
    if (shown) this.hidden.delete(kind);
    else this.hidden.add(kind);
    this.draw();
  }

  /** The curve that is drawn: the finer one where it is there. */
  get curve() {
    return this.fine ?? this.all;
  }

  get seen() {
    return this.range ?? { first: Math.max(1, this.all.first), last: this.all.last };
  }

  // --- zoom ---

  /** See these steps; all of them with null. */
  look(first = null, last = null) {
    if (this.all === null) return;
    const [least, most] = [Math.max(1, this.all.first), this.all.last];
    if (first === null || (first <= least && last >= most) || most - least < LEAST_STEPS) this.range = null;
    else {
      const wide = Math.max(LEAST_STEPS, Math.round(last - first));
      const from = Math.round(Math.min(Math.max(least, first), Math.max(least, most - wide)));
      this.range = { first: from, last: Math.min(most, from + wide) };
    }
    if (this.range === null) this.fine = null;
    this.draw();
    this.refine();
  }

  /** See less (factor below 1) or more around a step; around the pointed one, or the middle, by default. */
  zoom(factor, around = null) {
    if (this.all === null) return;
    const { first, last } = this.seen;
    const pointed = this.cursor === null ? null : this.curve.step[this.cursor];
    const middle = around ?? (pointed >= first && pointed <= last ? pointed : last >= this.all.last ? last : (first + last) / 2);
    this.look(middle - (middle - first) * factor, middle + (last - middle) * factor);
  }

  pan(part) {
    if (this.range === null) return;
    const { first, last } = this.range;
    const by = (last - first) * part;
    const room = by > 0 ? Math.min(by, this.all.last - last) : Math.max(by, Math.max(1, this.all.first) - first);
    this.look(first + room, last + room);
  }

  /** Fetch what is seen in finer points, where there are any, after the zooming has come to rest. */
  refine() {
    clearTimeout(this.finer);
    this.asking?.abort();
    if (this.range === null) return;
    const { first, last } = this.range;
    const fine = this.fine;
    if (fine !== null && fine.first <= first && fine.last >= last && (fine.span === 1 || fine.span <= (last - first) / POINTS)) return;
    if (this.all.span === 1) return;
    this.finer = setTimeout(async () => {
      const asking = (this.asking = new AbortController());
      try {
        const found = await get("/api/curve", { first, last, points: POINTS }, { signal: asking.signal });
        if (asking !== this.asking || this.range === null || found.generation !== this.all.generation) return;
        this.fine = found;
        this.half = halfLife(last - first + 1);
        this.draw();
      } catch (error) {
        // The coarser curve stays, and says so where it was asked for.
        if (error.name !== "AbortError") put(this.said, `The finer curve could not be read: ${error.message}`);
      }
    }, FINER_AFTER_MS);
  }

  // --- drawing ---

  /** Draw soon, but not more than once a second, and not while nobody looks. */
  later() {
    if (this.timer !== null) return;
    const wait = Math.max(0, this.drawnAt + REDRAW_MS - performance.now());
    this.timer = setTimeout(() => requestAnimationFrame(() => this.draw()), wait);
  }

  async draw() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.plotly === null || this.all === null || !this.box.clientWidth) return;
    this.drawnAt = performance.now();
    const { data, layout } = this.figure().made;
    const drawn = this.box.data ? "react" : "newPlot";
    await this.plotly[drawn](this.box, data, layout, CONFIG);
    if (drawn === "newPlot") this.box.on("plotly_relayout", (change) => this.dragged(change));
    this.point(this.cursor);
    this.changed?.(this);
  }

  /** What can be seen before plotly is there. */
  sketch() {
    const { made, at } = this.figure();
    this.sketched = sketch(made, at);
    this.box.before(this.sketched);
  }

  /** The figure as it is to be drawn now, and its places. */
  figure() {
    const at = (this.at = places(this.box.clientWidth, this.box.clientHeight));
    at.coarse = matchMedia("(pointer: coarse)").matches;
    const made = figure({
      curve: this.curve, all: this.all, marks: this.marks, range: this.seen, along: this.along, log: this.log,
      hidden: this.hidden, at, colours: this.colours(), small: this.small, live: this.live, measure: (text) => this.measure(text),
    });
    this.window = made.layout.xaxis.range;
    return { made, at };
  }

  dragged(change) {
    const [from, to] = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (from === undefined) return;
    const { toStep } = scales(this.along, this.all, this.fine);
    this.look(Math.ceil(toStep(from)), Math.floor(toStep(to)));
  }

  colours() {
    if (this.kept) return this.kept;
    const probe = document.createElement("i");
    document.body.append(probe);
    const of = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const faint = (name, alpha) => of(name).replace(/^rgba?\(([\d.]+), ([\d.]+), ([\d.]+).*$/, `rgba($1, $2, $3, ${alpha})`);
    this.kept = {
      blue: of("blue"), raw: faint("blue", 0.4), band: faint("blue", 0.16), line: faint("line", 0.75), edge: of("edge"), ink: of("ink"),
      soft: of("soft"), lamp: of("lamp"), lampLine: of("lamp-line"), lampInk: of("lamp-ink"), lit: of("lit"), red: of("red"),
      font: getComputedStyle(document.body).fontFamily,
    };
    probe.remove();
    return this.kept;
  }

  measure(text) {
    if (!this.measured.has(text)) {
      this.pen ??= document.createElement("canvas").getContext("2d");
      this.pen.font = `11px ${this.colours().font}`;
      if (this.measured.size > 2000) this.measured.clear();
      this.measured.set(text, this.pen.measureText(text).width);
    }
    return this.measured.get(text);
  }

  // --- pointer and keys ---

  listenTo() {
    new ResizeObserver(() => {
      if (this.at && (this.at.width !== this.box.clientWidth || this.at.height !== this.box.clientHeight)) this.draw();
    }).observe(this.box);
    addEventListener("themechange", () => {
      this.kept = null;
      this.draw();
    });
    this.box.addEventListener("pointermove", (event) => event.pointerType === "mouse" && !event.buttons && this.pointAt(event));
    this.box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.point(null));
    this.box.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse") this.point(null);
      else this.pointAt(event);
      this.box.dataset.pressed = "";
      // Plotly keeps the press to itself; the wheel and the keys need the focus.
      this.box.focus({ preventScroll: true });
    }, true);
    this.box.addEventListener("blur", () => {
      delete this.box.dataset.pressed;
      this.point(null);
    });
    this.box.addEventListener("dblclick", () => this.look());
    this.box.addEventListener("wheel", (event) => this.wheel(event), { passive: false, capture: true });
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  stepAt(event) {
    const { left, right, width } = this.at;
    const part = (event.clientX - this.box.getBoundingClientRect().left - left) / (width - left - right);
    if (!(part >= -0.02 && part <= 1.02)) return null;
    const [from, to] = this.window;
    return from + part * (to - from);
  }

  pointAt(event) {
    if (!this.at) return;
    const value = this.stepAt(event);
    this.point(value === null ? null : nearest(this.curve[this.along], value));
  }

  /** Show the card of a point; null hides it. */
  point(number, aloud = false) {
    const { at, card, line } = this;
    const curve = this.curve;
    const x = curve?.[this.along]?.[number ?? -1];
    const part = x === undefined ? -1 : (x - this.window[0]) / (this.window[1] - this.window[0] || 1);
    this.cursor = part >= -0.001 && part <= 1.001 ? number : null;
    card.hidden = line.hidden = this.cursor === null;
    if (this.cursor === null) return;
    const said = tell(card, curve, this.marks, number);
    if (aloud) put(this.said, said);
    const pixel = at.left + part * (at.width - at.left - at.right);
    line.style.left = `${Math.round(pixel)}px`;
    line.style.top = `${at.main[0]}px`;
    line.style.height = `${at.smalls[2][1] - at.main[0]}px`;
    const beside = pixel + 16 + card.offsetWidth > at.width ? pixel - 16 - card.offsetWidth : pixel + 16;
    card.style.left = `${Math.round(Math.max(0, Math.min(beside, at.width - card.offsetWidth)))}px`;
    card.style.top = `${at.main[0] + 8}px`;
  }

  wheel(event) {
    if (this.all === null || !(event.ctrlKey || event.metaKey || document.activeElement === this.box)) return;
    event.preventDefault();
    event.stopPropagation();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) return this.pan(Math.sign(event.deltaX) * 0.08);
    // From the middle of nowhere it would jump: the step under the pointer stays where it is.
    const value = this.stepAt(event);
    const around = value === null ? null : scales(this.along, this.all, this.fine).toStep(value);
    this.zoom(Math.exp(Math.max(-0.4, Math.min(0.4, event.deltaY * 0.0025))), around);
  }

  key(event) {
    if (this.all === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const { first, last } = this.seen;
    const steps = this.curve.step;
    const ends = [nearest(steps, first), nearest(steps, last)];
    const move = (by) => this.point(Math.max(ends[0], Math.min(ends[1], (this.cursor ?? (by < 0 ? ends[1] + 1 : ends[0] - 1)) + by)), true);
    const acts = {
      ArrowLeft: () => move(event.shiftKey ? -20 : -1),
      ArrowRight: () => move(event.shiftKey ? 20 : 1),
      Home: () => this.point(ends[0], true),
      End: () => this.point(ends[1], true),
      PageUp: () => this.pan(-0.5),
      PageDown: () => this.pan(0.5),
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      0: () => this.look(),
      Escape: () => (this.cursor === null ? this.look() : this.point(null)),
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    delete this.box.dataset.pressed;
    acts[event.key]();
    if (["+", "=", "-", "0", "PageUp", "PageDown"].includes(event.key)) {
      put(this.said, `Steps ${count(this.seen.first)} to ${count(this.seen.last)}.`);
    }
  }
}
