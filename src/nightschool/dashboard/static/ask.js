// Asking the server. A failure throws an Error whose message is a sentence for the reader.

const GONE = "The page's server does not answer. Is the machine still running? `nightschool run` starts it.";

/** An answer that was not good: `status` is the HTTP status (0: no answer at all), `kind` a word for programs. */
export class Refused extends Error {
  constructor(message, status, kind) {
    super(message);
    this.status = status;
    this.kind = kind;
  }
}

/** GET. Parameters that are null or undefined are left out. */
export function get(path, query = {}, { signal } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return ask(search ? `${path}?${search}` : path, { signal });
}

/** POST of a JSON body. */
export function post(path, body = {}, { signal } = {}) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** DELETE. */
export function remove(path, { signal } = {}) {
  return ask(path, { method: "DELETE", signal });
}

async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(GONE, 0, "gone");
  }
  if (response.status === 401) {
    location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}${location.hash}`);
    throw new Refused("Please sign in again.", 401, "sign in");
  }
  const found = await response.json().catch(() => null);
  if (response.ok && found !== null) return found;
  throw new Refused(found?.error ?? `The server answered with ${response.status}.`, response.status, found?.kind ?? "");
}

/** The Refused that a response of another request (an upload) stands for. */
export function refusal(status, text) {
  let found = null;
  try {
    found = JSON.parse(text);
  } catch {
    // Not from our server: say what there is.
  }
  if (status === 0) return new Refused(GONE, 0, "gone");
  return new Refused(found?.error ?? `The server answered with ${status}.`, status, found?.kind ?? "");
}
