// Building elements. Strings only ever become text nodes: a name that holds markup is shown, never obeyed.

/**
 * An element. Of `props`: `class`, `on` ({click: f}), `style` ({"--share": "40%"}), `dataset` ({id: 3}); properties
 * such as `value`, `checked`, `disabled`, `hidden`; all others are attributes. Null, undefined and false leave one out.
 * Children are nodes, strings, numbers, or arrays of them; null, undefined and false are nothing.
 */
export function h(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (name === "style") for (const [key, text] of Object.entries(value)) made.style.setProperty(key, text);
    else if (name === "dataset") Object.assign(made.dataset, value);
    else if (PROPERTIES.has(name)) made[name] = value;
    else if (/^on|^srcdoc$/i.test(name)) throw new Error(`\`${name}\` is no attribute to set; use \`on\`.`);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...nodes(children));
  return made;
}

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "indeterminate"]);

/** Put these in place of what `node` holds; gives the node. */
export function fill(node, ...children) {
  node.replaceChildren(...nodes(children));
  return node;
}

/** A sentence in which `this` is code, as nodes. */
export function sentence(text) {
  return String(text ?? "").split("`").map((part, number) => (number % 2 ? h("code", null, part) : part));
}

/** The text of a node, set only where it is another one: a screen reader is not told the same again. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}
