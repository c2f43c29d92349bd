// A file's bytes on their way to the machine, with progress; cancelled, nothing of it stays.

import { refusal, remove } from "./ask.js";

/**
 * Send a file. `progress(sent, total, seconds)` is called on the way. Gives `done`, a promise of the Upload (null where
 * it was cancelled; a refused one throws), and `cancel`.
 */
export function sending(file, progress) {
  const request = new XMLHttpRequest(); // fetch does not tell how much of a body is sent
  const began = performance.now();
  let cancelled = false;
  const done = new Promise((resolve, reject) => {
    request.upload.addEventListener("progress", ({ loaded }) => {
      progress(Math.min(loaded, file.size), file.size, (performance.now() - began) / 1000);
    });
    request.addEventListener("load", async () => {
      if (request.status < 200 || request.status > 299) return reject(refusal(request.status, request.responseText));
      const upload = JSON.parse(request.responseText);
      if (!cancelled) return resolve(upload);
      await remove(`/api/uploads/${encodeURIComponent(upload.id)}`).catch(() => {}); // it expires by itself
      return resolve(null);
    });
    request.addEventListener("error", () => reject(refusal(0, "")));
    request.addEventListener("abort", () => resolve(null));
  });
  request.open("POST", `/api/uploads?name=${encodeURIComponent(file.name)}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(file);
  const cancel = () => {
    cancelled = true;
    request.abort();
  };
  return { done, cancel };
}
