// Asking once, and saying what was done.
import { fill, h, sentence } from "./dom.js";

const SAID_MS = 12_000;
let silence = null;

/**
 * Ask whether to do it: `title` a question, `body` a sentence or nodes, `action` the words of the button, `danger`
 * where something is undone. Resolves to true only where the button was pressed.
 */
export function confirm({ title, body = "", action, danger = false }) {
  const heading = h("h2", { id: "ask-title" }, title);
  const yes = h("button", { type: "submit", value: "yes", class: danger ? "danger" : "primary" }, action);
  const no = h("button", { type: "submit", value: "no" }, "Leave it as it is");
  const box = h(
    "dialog",
    { class: "ask", "aria-labelledby": "ask-title" },
    h(
      "form",
      { method: "dialog" },
      heading,
      h("div", { class: "ask-body" }, typeof body === "string" ? h("p", null, sentence(body)) : body),
      h("div", { class: "actions" }, no, yes),
    ),
  );
  document.body.append(box);
  return new Promise((resolve) => {
    box.addEventListener("close", () => {
      box.remove();
      resolve(box.returnValue === "yes");
    });
    box.returnValue = "no";
    box.showModal();
    // Enter on a dialog that has just opened must never be what undoes something.
    (danger ? no : yes).focus();
  });
}

/** Say a sentence on the page, for eyes and screen readers; `trouble` keeps it until the next one, or until it is closed. */
export function say(text, { trouble = false } = {}) {
  const line = document.getElementById("said");
  clearTimeout(silence);
  const hush = () => {
    say("");
    document.getElementById("main").focus({ preventScroll: true }); // not lost with the button
  };
  const close = trouble && text ? h("button", { type: "button", class: "plain", on: { click: hush } }, "Close") : null;
  fill(line, sentence(text), close);
  line.classList.toggle("trouble", trouble);
  if (text && !trouble) silence = setTimeout(() => fill(line), SAID_MS);
}

/** Say what went wrong. For `.catch(complain)`; requests that were given up are no trouble. */
export function complain(error) {
  if (error?.name === "AbortError") return;
  say(error?.message ?? String(error), { trouble: true });
}
