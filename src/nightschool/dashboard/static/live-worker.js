// One stream for all tabs of a browser: a browser opens six connections to a host at most, and a stream holds one.
import { Stream } from "./stream.js";

const ports = new Set();
const stream = new Stream((message) => {
  for (const port of ports) port.postMessage(message);
});

self.addEventListener("connect", (event) => {
  const port = event.ports[0];
  ports.add(port);
  port.addEventListener("message", ({ data }) => {
    if (data !== "bye") return;
    ports.delete(port);
    if (ports.size === 0) stream.close();
  });
  port.start();
  for (const message of stream.greeting()) port.postMessage(message);
  stream.open();
});
