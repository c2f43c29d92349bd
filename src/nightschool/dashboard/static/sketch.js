// The curve drawn by ourselves, in the same place and colours, until plotly's large script has come and begun.

const SPACE = "http://www.w3.org/2000/svg";

/** The lines of the main plot of a figure, as an SVG element. */
export function sketch({ data, layout }, at) {
  const picture = made("svg", { width: at.width, height: at.height, class: "chart-sketch", "aria-hidden": "true" });
  const [from, to] = layout.xaxis.range;
  const inside = at.width - at.left - at.right;
  const [top, bottom] = at.main;
  const log = layout.yaxis.type === "log";
  const [low, high] = layout.yaxis.range;
  const x = (value) => at.left + ((value - from) / (to - from || 1)) * inside;
  const y = (value) => bottom - (((log ? Math.log10(value) : value) - low) / (high - low || 1)) * (bottom - top);
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
