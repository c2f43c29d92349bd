// The curve drawn by ourselves, in the same place and colours, until plotly's large script has come and begun: what is
// to be read off it, the lines with their axes and names, does not wait for what is only needed to look closer.
import { count } from "./words.js";

const SPACE = "http://www.w3.org/2000/svg";

/** The main plot of a figure, as an SVG element. */
export function sketch({ data, layout }, at) {
  const picture = made("svg", { width: at.width, height: at.height, class: "chart-sketch", "aria-hidden": "true" });
  const [from, to] = layout.xaxis.range;
  const inside = at.width - at.left - at.right;
  const [top, bottom] = at.main;
  const log = layout.yaxis.type === "log";
  const [low, high] = layout.yaxis.range;
  const x = (value) => at.left + ((value - from) / (to - from || 1)) * inside;
  const y = (value) => bottom - (((log ? Math.log10(value) : value) - low) / (high - low || 1)) * (bottom - top);
  for (const value of layout.yaxis.tickvals ?? ticks(low, high, layout.yaxis.nticks)) {
    const height = y(value);
    picture.append(
      made("line", { x1: at.left, x2: at.width - at.right, y1: height, y2: height, stroke: layout.yaxis.gridcolor }),
      text(rounded(value), at.left - 3, height, "end", "central", layout.font),
    );
  }
  for (const value of ticks(from, to, layout.xaxis.nticks)) {
    picture.append(
      made("line", { x1: x(value), x2: x(value), y1: top, y2: at.strip[1], stroke: layout.xaxis.gridcolor }),
      text(Number.isInteger(value) ? count(value) : rounded(value), x(value), at.strip[1] + 3, "middle", "hanging", layout.font),
    );
  }
  for (const note of layout.annotations) {
    const across = at.left + note.x * inside + (note.xshift ?? 0);
    const height = note.yref === "paper" ? (1 - note.y) * at.height : y(log ? 10 ** note.y : note.y);
    picture.append(text(unescaped(note.text), across, height, ENDS[note.xanchor], LINES[note.yanchor], { ...layout.font, ...note.font }));
  }
  for (const trace of data) {
    if (trace.yaxis || !trace.mode.includes("lines")) continue;
    const filled = trace.fill === "toself";
    picture.append(
      made("path", {
        d: way(trace, x, (value) => Math.max(top, Math.min(bottom, y(value)))) + (filled ? "Z" : ""),
        fill: filled ? trace.fillcolor : "none",
        stroke: filled ? "none" : trace.line.color,
        "stroke-width": trace.line.width,
        "stroke-linejoin": "round",
      }),
    );
  }
  return picture;
}

const ENDS = { left: "start", right: "end", center: "middle" };
const LINES = { top: "hanging", middle: "central", bottom: "auto" };

/** Round numbers from `low` to `high`, about as many as `most`, at most. */
export function ticks(low, high, most) {
  if (!(high > low)) return [];
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((one) => one >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function rounded(value) {
  return String(Number(value.toPrecision(6)));
}

/** The text that `plain` made ready for plotly. */
function unescaped(said) {
  return said.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
}

function text(said, x, y, anchor, baseline, font) {
  const node = made("text", {
    x, y, "text-anchor": anchor, "dominant-baseline": baseline, fill: font.color, "font-size": font.size, "font-family": font.family,
    "font-weight": font.weight ?? 400,
  });
  node.textContent = said;
  return node;
}

function way(trace, x, y) {
  let pen = "M";
  const parts = [];
  for (let n = 0; n < trace.x.length; n++) {
    if (trace.y[n] === null || !Number.isFinite(trace.y[n])) {
      if (!trace.connectgaps) pen = "M";
      continue;
    }
    parts.push(`${pen}${x(trace.x[n]).toFixed(1)} ${y(trace.y[n]).toFixed(1)}`);
    pen = "L";
  }
  return parts.join("");
}

function made(name, attributes) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
