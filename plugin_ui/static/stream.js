// A stream of live events (server-sent events). The browser resumes by itself with Last-Event-ID; entries of a part's
// former owner are dropped by the server.

const KINDS = ["state", "phase", "progress", "score", "log", "gpu"];

export function listen(url, onEvent) {
  const source = new EventSource(url);
  const receive = (message) => onEvent(JSON.parse(message.data));
  for (const kind of KINDS) source.addEventListener(kind, receive);
  source.addEventListener("expired", () => source.close()); // nothing will come: the run ended long ago
  addEventListener("pagehide", () => source.close(), { once: true });
}
