// What the chart says of the point that is looked at: everything that is known of it, in words.
import { fill, h } from "./dom.js";
import { beginning, place } from "./columns.js";
import { count, duration, learningRate, loss, many, rate } from "./words.js";

const MARKS_AT_MOST = 4;

/** Fill the card for point `number`. Gives the same in one sentence, for those who do not see it. */
export function tell(card, curve, marks, number) {
  const [first, last] = [beginning(curve, number), curve.step[number]];
  const heading = first === last ? `Step ${count(last)}` : `Steps ${count(first)} to ${count(last)}`;
  const file = fileAt(marks, last);
  const bad = curve.bad[number];
  const happened = marks.marks.filter((mark) => mark.step >= first && mark.step <= last);
  const facts = [
    ["Loss", losses(curve, number)],
    ["Smoothed", loss(curve.smooth[number])],
    ["Learning rate", learningRate(curve.learning_rate[number])],
    ["Gradient norm", norms(curve, number)],
    ["Speed", rate(curve.tokens_per_second[number])],
    ["Trained on", many(curve.tokens[number], "tokens")],
    ["Trained for", duration(curve.hours[number] * 3600)],
  ];
  const trouble = bad ? `The loss of ${count(bad, "step")} was not a number.` : "";
  fill(
    card,
    h("h3", null, heading),
    file && h("p", { class: "file soft" }, file.name),
    h("dl", null, facts.map(([what, value]) => h("div", null, h("dt", null, what), h("dd", null, value)))),
    trouble && h("p", { class: "trouble" }, trouble),
    happened.slice(-MARKS_AT_MOST).map((mark) => h("p", null, mark.text)),
    happened.length > MARKS_AT_MOST && h("p", { class: "soft" }, `and ${happened.length - MARKS_AT_MOST} more`),
  );
  return [`${heading}, ${file?.name ?? ""}: loss ${loss(curve.loss[number])}, smoothed ${loss(curve.smooth[number])}.`, trouble]
    .concat(happened.map((mark) => mark.text))
    .join(" ");
}

/** The file that a step was trained on. */
export function fileAt(marks, step) {
  const files = marks.files;
  const at = place(files.map((file) => file.last), step);
  return at < files.length && files[at].first <= step ? files[at] : null;
}

function losses(curve, number) {
  if (curve.span === 1 || curve.loss_min[number] === null) return loss(curve.loss[number]);
  return `${loss(curve.loss[number])} (${loss(curve.loss_min[number])} to ${loss(curve.loss_max[number])})`;
}

function norms(curve, number) {
  const [mean, most] = [curve.grad_norm[number], curve.grad_norm_max[number]];
  if (curve.span === 1 || most === null) return loss(mean);
  return `${loss(mean)}, at most ${loss(most)}`;
}
