// Small things that the views share.

import { complain, confirm, say } from "./dialog.js";
import { fill, h, sentence } from "./dom.js";
import { followJob } from "./jobs.js";
import { planShown } from "./telling.js";
import { post } from "./ask.js";

export { oneAtATime } from "./once.js";

/** Put children into a node; what was focused, by its `data-key`, is focused again. */
export function redraw(node, ...children) {
  const active = document.activeElement;
  const key = node.contains(active) ? active.closest("[data-key]")?.dataset.key : undefined;
  fill(node, ...children);
  if (key !== undefined) node.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** A button with words on it. */
export function button(words, click, props = {}) {
  return h("button", { type: "button", ...props, on: { click } }, words);
}

/** Do something that the server answers with a sentence, say it, then `then`. True where it was done. */
export async function act(doing, then) {
  try {
    const done = await doing();
    if (done?.said) say(done.said);
  } catch (error) {
    complain(error);
    return false;
  }
  await then?.();
  return true;
}

/** The same for a button: out of reach meanwhile, so that nothing is asked for twice. */
export async function pressed(button, doing, then) {
  button.disabled = true;
  try {
    return await act(doing, then);
  } finally {
    button.disabled = false;
  }
}

/**
 * Show what a change of the past comes to, ask once, do it, and follow it to its end. Where it would be another one by
 * then, nothing is done, and it is shown anew. `path` is that of the change;
 * `choices` is a node above the plan, and a `change` event on it asks for the plan anew with `body()`.
 * Resolves to whether it was done.
 */
export async function agree({ path, body, title, action, choices = null, forgetting = false, danger = true }) {
  const shown = h("div", { class: "plan", "aria-live": "polite" });
  const around = h("div", null, choices, shown);
  let agreed = null;
  const look = async () => {
    const asked = body();
    agreed = null;
    const plan = await post(`${path}/plan`, asked);
    if (JSON.stringify(asked) !== JSON.stringify(body())) return; // another was chosen meanwhile
    agreed = { ...asked, digest: plan.digest };
    fill(shown, planShown(plan, forgetting));
  };
  const button = () => around.closest("dialog")?.querySelector('button[value="yes"]');
  choices?.addEventListener("change", async () => {
    if (button()) button().disabled = true;
    try {
      await look();
      if (button()) button().disabled = agreed === null;
    } catch (error) {
      fill(shown, h("p", { class: "trouble" }, error.message));
    }
  });
  try {
    for (let refused = null; ; ) {
      await look();
      const answer = confirm({ title, body: h("div", null, refused, around), action, danger });
      if (!(await answer) || agreed === null) return false;
      try {
        return (await followJob(await post(path, agreed))).state === "done";
      } catch (error) {
        if (error.kind !== "changed") throw error;
        refused = h("p", { class: "note trouble", role: "alert" }, sentence(error.message));
      }
    }
  } catch (error) {
    complain(error);
    return false;
  }
}

/** Names and what they are, one under the other. What is null or empty is left out. */
export function facts(...pairs) {
  const known = pairs.filter(([, value]) => value || value === 0);
  return h("dl", { class: "facts" }, known.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

/** A choice of one: radio buttons that look like words side by side. `options`: [value, words, what it means]. */
export function choice(name, legend, options, chosen) {
  const one = ([value, words, means]) =>
    h(
      "label",
      { class: "option" },
      h("input", { type: "radio", name, value, checked: value === chosen }),
      h("span", null, h("span", { class: "option-name" }, words), means ? h("small", null, means) : null),
    );
  return h("fieldset", { class: "options" }, h("legend", null, legend), options.map(one));
}

/** The first answers are there: the page, which kept still so far, is shown. */
export function looked() {
  document.body.classList.add("looked");
}

/**
 * For `listen({connection})`: calls `work` whenever the stream opens, at first too: what changed between the first
 * answer and that is told to nobody.
 */
export function whenOpen(work) {
  return (word) => {
    if (word === "open") work();
  };
}

/** Calls `work` when nothing was called for `milliseconds`. */
export function settled(work, milliseconds) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds, ...given);
  };
}
