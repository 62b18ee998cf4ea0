// Brings the parts of the page that the server renders ([data-refresh], each with an id) up to date in place.
// The server's template stays the only one that knows how they look.

export class Refresher {
  #pause;
  #timer = null;
  #running = false;
  #again = false;

  constructor(pauseMs) {
    this.#pause = pauseMs;
  }

  soon() {
    if (this.#running) this.#again = true;
    else this.#timer ??= setTimeout(() => this.#run(), this.#pause);
  }

  async #run() {
    this.#timer = null;
    this.#running = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) location.reload(); // the session has ended
      else if (answer.ok) replaceSections(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      this.#again = true; // the server is away: the next round may find it
    }
    this.#running = false;
    if (this.#again) {
      this.#again = false;
      this.soon();
    }
  }
}

function replaceSections(fresh) {
  const focused = document.activeElement?.id;
  for (const old of document.querySelectorAll("[data-refresh]")) {
    const section = fresh.getElementById(old.id);
    if (!section) continue;
    for (const { name, value } of section.attributes) old.setAttribute(name, value);
    if (old.innerHTML !== section.innerHTML) old.replaceChildren(...section.childNodes);
  }
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus();
  document.dispatchEvent(new Event("lmms:refreshed"));
}
