// Times and spans as people read them. The server writes UTC; here they become local, and running spans count on.

const LOCAL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const AGO = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

function ago(seconds) {
  if (seconds < 60) return "just now";
  if (seconds < 3600) return AGO.format(-Math.floor(seconds / 60), "minute");
  if (seconds < 86400) return AGO.format(-Math.floor(seconds / 3600), "hour");
  return AGO.format(-Math.floor(seconds / 86400), "day");
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function showTimes() {
  const now = Date.now() / 1000;
  for (const element of document.querySelectorAll("[data-moment]")) {
    const then = Number(element.dataset.moment);
    element.title = LOCAL.format(then * 1000);
    write(element, now - then < 7 * 86400 ? ago(now - then) : LOCAL.format(then * 1000));
  }
  for (const element of document.querySelectorAll("[data-since]")) {
    const until = element.dataset.until === "" ? now : Number(element.dataset.until);
    write(element, span(until - Number(element.dataset.since)));
  }
}
