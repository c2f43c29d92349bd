// The columns of a curve: finding places in them, and adding steps as they come. No drawing, no asking.

export const COLUMNS = [
  "step", "tokens", "hours", "loss", "loss_min", "loss_max", "smooth", "bad", "learning_rate", "grad_norm",
  "grad_norm_max", "tokens_per_second",
];

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** The place of the first value of a rising column that is not below `value`; its length where all are. */
export function place(column, value) {
  let [low, high] = [0, column.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The place of the point nearest to `value`. */
export function nearest(column, value) {
  const after = place(column, value);
  if (after === 0) return 0;
  if (after >= column.length) return column.length - 1;
  return value - column[after - 1] < column[after] - value ? after - 1 : after;
}

/** Where a value of one rising column is in another; the ends go on at the mean slope. */
export function across(from, to, value) {
  const end = from.length - 1;
  if (end < 0) return value;
  if (end === 0 || from[end] === from[0]) return from[0] ? (value * to[0]) / from[0] : value;
  if (value < from[0] || value > from[end]) {
    const slope = (to[end] - to[0]) / (from[end] - from[0]);
    const [x, y] = value < from[0] ? [from[0], to[0]] : [from[end], to[end]];
    return y + (value - x) * slope;
  }
  const after = Math.max(1, place(from, value));
  const part = (value - from[after - 1]) / (from[after] - from[after - 1] || 1);
  return to[after - 1] + part * (to[after] - to[after - 1]);
}

/** The first step of a point. Points begin at multiples of their span. */
export function beginning(curve, number) {
  const least = number === 0 ? Math.max(1, curve.first) : curve.step[number - 1] + 1;
  return Math.max(least, cell(curve, curve.step[number]) * curve.span);
}

const cell = (curve, step) => Math.floor(step / curve.span);

/** The half-life, in steps, with which a view over so many is smoothed; that of the server's `smoothing`. */
export function halfLife(steps) {
  return 2 ** Math.max(0, Math.round(Math.log2(Math.max(steps, 1) / 50)));
}

/**
 * Add new steps (a Curve with span 1) to a curve; its last point is filled up to the curve's span before another one
 * is begun, so that the end does not look rougher than the rest. Their smooth line is that of the curve over all; with
 * `half`, a half-life, it is made here. Gives how many steps were added; -1 where some are missing between or the curve
 * is another one: then it is to be read anew.
 */
export function append(curve, steps, half = null) {
  if (steps.generation !== curve.generation || steps.span !== 1) return -1;
  let added = 0;
  for (let n = 0; n < steps.step.length; n++) {
    const last = curve.step.length ? curve.step.at(-1) : curve.first - 1;
    if (steps.step[n] <= last) continue;
    if (curve.step.length && steps.step[n] !== last + 1) return -1;
    const end = curve.step.length - 1;
    const smooth = half === null ? steps.smooth[n] : smoothed(curve.smooth[end], steps.loss[n], half);
    if (end >= 0 && cell(curve, last) === cell(curve, steps.step[n])) merge(curve, end, steps, n);
    else for (const name of COLUMNS) curve[name].push(steps[name][n]);
    if (known(smooth)) curve.smooth[curve.smooth.length - 1] = smooth;
    added += 1;
  }
  if (curve.step.length) curve.last = curve.step.at(-1);
  curve.steps_done = Math.max(curve.steps_done, steps.steps_done);
  return added;
}

function merge(curve, end, steps, n) {
  const all = curve.step[end] - beginning(curve, end) + 1;
  const good = all - curve.bad[end];
  curve.loss[end] = mean(curve.loss[end], good, steps.loss[n]);
  curve.grad_norm[end] = mean(curve.grad_norm[end], all, steps.grad_norm[n]);
  curve.tokens_per_second[end] = mean(curve.tokens_per_second[end], all, steps.tokens_per_second[n]);
  curve.loss_min[end] = either(Math.min, curve.loss_min[end], steps.loss_min[n]);
  curve.loss_max[end] = either(Math.max, curve.loss_max[end], steps.loss_max[n]);
  curve.grad_norm_max[end] = either(Math.max, curve.grad_norm_max[end], steps.grad_norm_max[n]);
  curve.bad[end] += steps.bad[n];
  for (const name of ["step", "tokens", "hours", "learning_rate"]) curve[name][end] = steps[name][n];
}

function smoothed(before, loss, half) {
  if (!known(loss) || !known(before)) return known(loss) ? loss : before;
  const keep = 2 ** (-1 / half);
  return before * keep + loss * (1 - keep);
}

function mean(old, weight, value) {
  if (!known(value)) return old;
  return known(old) ? (old * weight + value) / (weight + 1) : value;
}

function either(choose, one, other) {
  if (!known(one)) return other;
  return known(other) ? choose(one, other) : one;
}

/** The value below which a part of them lies; null of none. */
export function quantile(values, part) {
  const sorted = values.filter(known).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] : null;
}

/** The lowest and highest of those that are known, or null. */
export function extent(...columns) {
  let [low, high] = [Infinity, -Infinity];
  for (const column of columns) {
    for (const value of column) {
      if (!known(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low > high ? null : [low, high];
}
