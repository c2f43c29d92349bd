// What plotly is to draw, made from a curve, its marks and what is to be seen of them. Nothing is drawn or asked here.
import { across, extent, place, quantile } from "./columns.js";
import { count, learningRate, loss } from "./words.js";

export const KINDS = {
  snapshot: { words: "Snapshots", symbol: "circle-open" },
  resumed: { words: "Resumed", symbol: "triangle-right-open" },
  cut: { words: "Rolled back", symbol: "diamond-open" },
  numerics: { words: "Numerics changed", symbol: "square-open" },
};
const LINES_AT_MOST = 400;
const NAMES_AT_MOST = 30;
const NAME_ROOM = 50; // pixels in which something of a name can be read

/** Where things are, in pixels of a box of that size. `small` is false as long as only the curve is drawn. */
export function places(width, height) {
  const narrow = width < 560;
  const room = { left: narrow ? 38 : 50, right: narrow ? 44 : 52, top: 22, bottom: 6 };
  const axis = 22;
  const each = Math.max(32, Math.min(52, Math.round(height * 0.065)));
  const gap = 23;
  const strip = 18;
  const smalls = [0, 1, 2].map((n) => {
    const bottom = height - room.bottom - (2 - n) * (each + gap);
    return [bottom - each, bottom];
  });
  const under = smalls[0][0] - gap - axis;
  return { ...room, width, height, narrow, strip: [under - strip, under], main: [room.top, under - strip - 2], smalls };
}

/** From steps to the axis along the bottom and back, as exact as what is at hand. */
export function scales(along, all, fine) {
  const on = (column, value) => {
    const curve = fine?.step.length > 1 && value >= fine[column][0] && value <= fine[column].at(-1) ? fine : all;
    return curve;
  };
  if (along === "step") return { toX: (step) => step, toStep: (x) => x };
  return {
    toX: (step) => {
      const curve = on("step", step);
      return across(curve.step, curve[along], step);
    },
    toStep: (x) => {
      const curve = on(along, x);
      return across(curve[along], curve.step, x);
    },
  };
}

/**
 * The figure: `{data, layout}` for plotly.
 *
 * `curve` is drawn, `all` is the whole run, `range` the steps to be seen, `along` step, tokens or hours, `log` the
 * scale, `hidden` a set of kinds, `at` the places, `colours` by name, `small` whether the small ones are drawn too,
 * `live` whether it trains now, `measure(text)` the width of a text in pixels.
 */
export function figure({ curve, all, marks, range, along, log, hidden, at, colours, small, live, measure }) {
  const scale = scales(along, all, curve);
  const x = curve[along];
  const [from, to] = [scale.toX(range.first), scale.toX(range.last)];
  const wide = to - from || 1;
  const seen = [place(curve.step, range.first), place(curve.step, range.last + 1)];
  const visible = (name) => curve[name].slice(seen[0], seen[1]);
  const atEnd = range.last >= all.steps_done;
  const files = marks.files.filter((file) => file.last >= range.first && file.first <= range.last);
  const data = [
    ...curveTraces(curve, x, colours),
    ...fileLines(files, range, scale, colours, hidden),
    ...markTraces(marks, range, scale, colours, hidden),
    badTrace(curve, x, colours, hidden),
    ...(atEnd ? [tip(curve, x, live ? colours.lamp : colours.blue, live ? colours.lampLine : colours.blue)] : []),
    ...(small ? smallTraces(curve, x, colours) : []),
  ];
  const losses = lossRange(visible, log);
  const layout = {
    width: at.width,
    height: at.height,
    autosize: false,
    margin: { l: at.left, r: at.right, t: 0, b: 0, pad: 0 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: colours.font, size: at.narrow ? 11 : 12, color: colours.soft },
    showlegend: false,
    hovermode: false,
    dragmode: at.coarse ? false : "zoom",
    selectdirection: "h",
    uirevision: "kept",
    xaxis: {
      range: [from, to + wide * 0.004],
      anchor: "y2",
      domain: [0, 1],
      showgrid: true,
      gridcolor: colours.line,
      zeroline: false,
      showline: false,
      ticks: "",
      fixedrange: false,
      nticks: at.narrow ? 4 : 9,
      tickfont: { color: colours.soft },
      ...ticksAlong(along, to),
    },
    yaxis: axis(at, at.main, { range: losses, type: log ? "log" : "linear", gridcolor: colours.line, nticks: 7, ...(log ? logTicks(losses) : {}) }),
    yaxis2: axis(at, at.strip, { range: [0, 1], visible: false }),
    yaxis3: { ...axis(at, at.main, { range: [0, 1], visible: false }), overlaying: "y" },
    shapes: [...(live && atEnd && files.length && !hidden.has("files") ? [lit(files.at(-1), range, scale, colours)] : [])],
    annotations: [
      axisTitle(along, at, colours),
      ...(hidden.has("files") ? [] : fileNames(files, range, scale, at, colours, measure, live && atEnd)),
      ...(atEnd ? tipValue(curve, losses, log, at, live ? colours.lampInk : colours.blue) : []),
      ...(small ? smallTitles(at, curve, atEnd, colours) : []),
    ],
    ...(small ? smallAxes(at, visible, colours) : {}),
  };
  return { data, layout };
}

/** The unit stands at the right end of the numbers: a line of its own would cost height. */
function axisTitle(along, at, colours) {
  return {
    xref: "paper", x: 1, xanchor: "left", xshift: 8, yref: "paper", y: 1 - (at.strip[1] + 1) / at.height, yanchor: "top",
    text: { step: "steps", tokens: "tokens", hours: "hours" }[along], showarrow: false, font: { size: at.narrow ? 11 : 12, color: colours.soft },
  };
}

function ticksAlong(along, to) {
  if (along === "step") return { tickformat: ",d" };
  if (along === "tokens") return { tickformat: to >= 1000 ? "~s" : ",d" };
  return { tickformat: ",~g" };
}

function axis(at, [top, bottom], more) {
  return {
    domain: [1 - bottom / at.height, 1 - top / at.height],
    anchor: "x",
    fixedrange: true,
    zeroline: false,
    showline: false,
    ticks: "",
    ...more,
  };
}

const line = (more) => ({ type: "scatter", mode: "lines", hoverinfo: "skip", ...more });

function curveTraces(curve, x, colours) {
  const traces = [];
  if (curve.span > 1) {
    const there = x.map((_, n) => n).filter((n) => curve.loss_max[n] !== null && curve.loss_min[n] !== null);
    const back = there.toReversed();
    traces.push(
      line({
        x: [...there.map((n) => x[n]), ...back.map((n) => x[n])],
        y: [...there.map((n) => curve.loss_max[n]), ...back.map((n) => curve.loss_min[n])],
        fill: "toself",
        fillcolor: colours.band,
        line: { width: 0 },
        name: "lowest and highest",
      }),
    );
  }
  const few = x.length < 80 ? { mode: "lines+markers", marker: { size: 4, color: colours.raw } } : {};
  traces.push(line({ x, y: curve.loss, line: { width: 1, color: colours.raw }, name: "loss", ...few }));
  traces.push(line({ x, y: curve.smooth, line: { width: 2.2, color: colours.blue }, name: "smoothed" }));
  return traces;
}

function fileLines(files, range, scale, colours, hidden) {
  const first = files.filter((file) => file.first > range.first && file.first > 1);
  if (hidden.has("files") || first.length > LINES_AT_MOST) return [];
  return [upright(first.map((file) => scale.toX(file.first - 0.5)), { width: 1, color: colours.edge, dash: "1px,3px" }, "files")];
}

function upright(xs, style, name) {
  return line({ x: xs.flatMap((x) => [x, x, null]), y: xs.flatMap(() => [0, 1, null]), yaxis: "y3", line: style, name });
}

function markTraces(marks, range, scale, colours, hidden) {
  const traces = [];
  for (const [kind, { symbol }] of Object.entries(KINDS)) {
    if (hidden.has(kind)) continue;
    const found = marks.marks.filter((mark) => mark.kind === kind && mark.step >= range.first - 1 && mark.step <= range.last);
    if (!found.length) continue;
    const x = found.map((mark) => scale.toX(mark.step));
    if (kind === "cut") traces.push(upright(x, { width: 1, color: colours.ink, dash: "5px,4px" }, "cut"));
    const marker = { symbol, size: 9, color: colours.ink, line: { width: 1.5, color: colours.ink } };
    traces.push(line({ mode: "markers", x, y: x.map(() => 0.5), yaxis: "y2", marker, name: kind, cliponaxis: false }));
  }
  return traces;
}

function badTrace(curve, x, colours, hidden) {
  const bad = x.map((_, n) => n).filter((n) => curve.bad[n] > 0 && !hidden.has("bad"));
  const marker = { symbol: "x-thin", size: 9, color: colours.red, line: { width: 2, color: colours.red } };
  const where = bad.map((n) => x[n]);
  return line({ mode: "markers", x: where, y: where.map(() => 0.5), yaxis: "y2", marker, name: "bad", cliponaxis: false });
}

function tip(curve, x, fill, edge) {
  const end = curve.smooth.findLastIndex((value) => value !== null);
  const marker = { size: 10, color: fill, line: { width: 1.5, color: edge } };
  return line({ mode: "markers", x: [x[end]], y: [curve.smooth[end]], marker, cliponaxis: false, name: "now" });
}

function tipValue(curve, losses, log, at, color) {
  const value = curve.smooth.findLast((one) => one !== null);
  if (value === undefined || value === null) return [];
  const y = log ? Math.log10(value) : value;
  if (!(y >= losses[0] && y <= losses[1])) return [];
  const text = loss(value);
  const font = { size: at.narrow ? 12 : 14, color, weight: 600 };
  return [{ xref: "paper", x: 1, xanchor: "left", xshift: 8, yref: "y", y, yanchor: "middle", text, showarrow: false, font }];
}

function lit(file, range, scale, colours) {
  return {
    type: "rect", xref: "x", yref: "y3", layer: "below", line: { width: 0 }, fillcolor: colours.lit,
    x0: scale.toX(Math.max(file.first - 0.5, range.first)), x1: scale.toX(file.last), y0: 0, y1: 1,
  };
}

/**
 * Names that fit over their own files; the others are told in the card. The file in training is always named, at the
 * right edge where it is narrow; and so is the last one where no name fits, as with many files on a phone. Plotly reads
 * `<` and `&`: they are written out.
 */
function fileNames(files, range, scale, at, colours, measure, live) {
  const inside = at.width - at.left - at.right;
  const [from, to] = [scale.toX(range.first), scale.toX(range.last)];
  const pixel = (step) => ((scale.toX(step) - from) / (to - from || 1)) * inside;
  const found = files.map((file) => {
    const left = Math.max(0, pixel(file.first - 0.5));
    return { file, left, wide: Math.min(inside, pixel(file.last)) - left };
  });
  const now = live || !found.some((one) => one.wide > NAME_ROOM) ? found.at(-1) : null;
  let free = inside;
  const label = (one, x, text, more) => ({
    xref: "paper", x: x / inside, xanchor: "left", xshift: 3, yref: "paper", y: 1 - (at.main[0] - 3) / at.height,
    yanchor: "bottom", showarrow: false, text: plain(text), font: { size: 11, color: colours.soft }, ...more,
  });
  const labels = [];
  if (now) {
    const text = shortened(now.file.name, Math.max(now.wide - 6, Math.min(150, inside * 0.6)), measure);
    const wide = measure(text);
    const right = wide > now.wide - 6;
    const more = { font: { size: 11, color: live ? colours.lampInk : colours.soft }, ...(right ? { xanchor: "right", xshift: 0 } : {}) };
    labels.push(label(now, right ? inside : now.left, text, more));
    free = (right ? inside - wide : now.left) - 10;
  }
  return found
    .filter((one) => one !== now && Math.min(one.wide, free - one.left) > NAME_ROOM)
    .sort((a, b) => b.wide - a.wide)
    .slice(0, NAMES_AT_MOST)
    .flatMap((one) => {
      const text = shortened(one.file.name, Math.min(one.wide, free - one.left) - 9, measure);
      return text ? [label(one, one.left, text)] : [];
    })
    .concat(labels);
}

export function shortened(name, room, measure) {
  if (measure(name) <= room) return name;
  const letters = Array.from(name);
  let [low, high] = [0, letters.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (measure(`${letters.slice(0, middle).join("")}…`) <= room) low = middle;
    else high = middle - 1;
  }
  return low < 5 ? null : `${letters.slice(0, low).join("")}…`;
}

/** Text that plotly shows as it is. */
export function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function lossRange(visible, log) {
  const middle = extent(visible("smooth"), visible("loss")) ?? [0, 1];
  // A few wild steps may leave the picture at its edge; the means never do, and the card tells all.
  const low = Math.min(middle[0], quantile(visible("loss_min"), 0.01) ?? middle[0]);
  const high = Math.max(middle[1], quantile(visible("loss_max"), 0.985) ?? middle[1]);
  if (log) {
    const [a, b] = [Math.log10(Math.max(low, 1e-6)), Math.log10(Math.max(high, 2e-6))];
    const room = (b - a) * 0.05 || 0.05;
    return [a - room, b + room];
  }
  const room = (high - low) * 0.05 || 0.1;
  return [Math.max(0, low - room), high + room];
}

const TICKS = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]];

/** Few round numbers between the ends of a logarithmic axis; plotly gives one or none where these are near. */
function logTicks([low, high]) {
  let found = [];
  for (const digits of TICKS) {
    found = [];
    for (let power = Math.floor(low); power <= Math.floor(high); power++) {
      for (const digit of digits) {
        const value = Number((digit * 10 ** power).toPrecision(3));
        if (Math.log10(value) >= low && Math.log10(value) <= high) found.push(value);
      }
    }
    if (found.length >= 4) return { tickvals: found, ticktext: found.map(String) };
  }
  return found.length >= 2 ? { tickvals: found, ticktext: found.map(String) } : { nticks: 6 };
}

const SMALL = [
  { name: "learning_rate", title: "Learning rate", says: learningRate },
  { name: "grad_norm", title: "Gradient norm", says: (value) => String(value) },
  { name: "tokens_per_second", title: "Tokens per second", says: (value) => count(value) },
];

function smallTraces(curve, x, colours) {
  const style = { width: 1.3, color: colours.blue };
  const traces = SMALL.map(({ name }, n) => line({ x, y: curve[name], yaxis: `y${n + 4}`, line: style, name }));
  const highest = { width: 1, color: colours.raw };
  return [line({ x, y: curve.grad_norm_max, yaxis: "y5", line: highest, name: "grad_norm_max" }), ...traces];
}

function smallAxes(at, visible, colours) {
  const made = {};
  SMALL.forEach(({ name, says }, n) => {
    const { range, tick } = smallRange(visible(name), name === "grad_norm" ? visible("grad_norm_max") : []);
    made[`yaxis${n + 4}`] = axis(at, at.smalls[n], {
      range, gridcolor: colours.line, tickvals: [0, tick], ticktext: ["0", says(tick)],
    });
  });
  return made;
}

/** From 0: how small a part a change is, is part of what is seen. */
function smallRange(values, highest) {
  const high = Math.max(extent(values)?.[1] ?? 1, quantile(highest, 0.995) ?? 0) || 1;
  const tick = round(high);
  return { range: [0, Math.max(high * 1.08, tick)], tick };
}

/** The largest number of one digit (or 1.5, 2.5) that is not above `high`. */
function round(high) {
  const size = 10 ** Math.floor(Math.log10(high) + 1e-9);
  const first = high / size + 1e-9;
  return Number((size * (first < 3 ? Math.floor(first * 2) / 2 : Math.floor(first))).toPrecision(2));
}

/** What each is, and what it is now. */
function smallTitles(at, curve, atEnd, colours) {
  const font = { size: at.narrow ? 11 : 12, color: colours.soft };
  return SMALL.flatMap(({ name, title, says }, n) => {
    const [top, bottom] = at.smalls[n];
    const made = [{
      xref: "paper", x: 0, xanchor: "left", yref: "paper", y: 1 - (top - 2) / at.height, yanchor: "bottom", text: title,
      showarrow: false, font,
    }];
    const value = curve[name].findLast((one) => one !== null);
    if (atEnd && value !== undefined) {
      const axis = smallRange(curve[name], name === "grad_norm" ? curve.grad_norm_max : []);
      const y = bottom - (bottom - top) * Math.min(1, value / axis.range[1]);
      made.push({
        xref: "paper", x: 1, xanchor: "left", xshift: 8, yref: "paper", y: 1 - y / at.height, yanchor: "middle",
        text: name === "grad_norm" ? loss(value) : says(value), showarrow: false, font,
      });
    }
    return made;
  });
}
