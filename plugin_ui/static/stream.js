// A stream of live events (server-sent events). The browser resumes by itself with Last-Event-ID.
// Entries that a part's former owner wrote after it had lost the part are dropped.

const KINDS = ["state", "phase", "progress", "score", "log", "gpu"];

export function listen(url, onEvent, onState = () => {}) {
  const newest = new Map();
  const source = new EventSource(url);
  const receive = (message) => {
    const event = JSON.parse(message.data);
    if (event.part !== null && event.part !== undefined && event.token) {
      if (event.token < (newest.get(event.part) ?? 0)) return;
      newest.set(event.part, event.token);
    }
    onEvent(event);
  };
  for (const kind of KINDS) source.addEventListener(kind, receive);
  source.addEventListener("open", () => onState("open"));
  source.addEventListener("error", () => onState(source.readyState === EventSource.CLOSED ? "closed" : "waiting"));
  addEventListener("pagehide", () => source.close(), { once: true });
  return () => source.close();
}
