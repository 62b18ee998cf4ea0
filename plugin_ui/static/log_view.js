// The console: keeps up with many thousand lines by drawing only those in view.

const ROW = 18;
const MARGIN = 20;
const KEPT = 100_000;
const LEVELS = { DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50 };
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export class LogView {
  #lines = [];
  #shown = [];
  #level = 20;
  #search = "";
  #drawing = false;
  #dropped = 0;

  constructor(root) {
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    this.view = part("view");
    this.box = part("lines");
    this.count = part("count");
    this.followBox = part("follow");
    part("tools").hidden = false;
    this.#level = Number(part("level").value);
    part("level").addEventListener("change", (event) => this.#filter({ level: Number(event.target.value) }));
    part("search").addEventListener("input", (event) => this.#filter({ search: event.target.value.toLowerCase() }));
    this.followBox.addEventListener("change", () => this.#draw());
    this.view.addEventListener("scroll", () => this.#scrolled());
    new ResizeObserver(() => this.#draw()).observe(this.view);
    this.#draw();
  }

  add(lines) {
    for (const line of lines) {
      for (const text of String(line.message).split("\n")) {
        const entry = { time: line.time, level: line.level, text };
        this.#lines.push(entry);
        if (this.#passes(entry)) this.#shown.push(entry);
      }
    }
    if (this.#lines.length > KEPT) this.#forget();
    this.#draw();
  }

  replace(lines) {
    this.#lines = [];
    this.#shown = [];
    this.#dropped = 0;
    this.add(lines);
  }

  #forget() {
    const surplus = this.#lines.length - KEPT * 0.9;
    this.#lines.splice(0, surplus);
    this.#dropped += surplus;
    this.#shown = this.#lines.filter((entry) => this.#passes(entry));
  }

  #passes(entry) {
    return (LEVELS[entry.level] ?? 20) >= this.#level && (!this.#search || entry.text.toLowerCase().includes(this.#search));
  }

  #filter({ level = this.#level, search = this.#search }) {
    this.#level = level;
    this.#search = search;
    this.#shown = this.#lines.filter((entry) => this.#passes(entry));
    this.#draw();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.view;
    this.followBox.checked = scrollTop + clientHeight >= scrollHeight - ROW;
    this.#draw();
  }

  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#paint();
    });
  }

  #paint() {
    const total = this.#shown.length;
    this.box.style.height = `${total * ROW}px`;
    if (this.followBox.checked) this.view.scrollTop = this.view.scrollHeight;
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - MARGIN);
    const last = Math.min(total, Math.ceil((this.view.scrollTop + this.view.clientHeight) / ROW) + MARGIN);
    this.box.replaceChildren(...this.#shown.slice(first, last).map((entry, at) => row(entry, first + at)));
    const all = this.#lines.length;
    this.view.classList.toggle("empty", all === 0);
    const kept = this.#dropped ? ` (${this.#dropped} older ones in the file)` : "";
    this.count.textContent = total === all ? `${all} lines${kept}` : `${total} of ${all} lines${kept}`;
  }
}

function row(entry, index) {
  const line = document.createElement("div");
  line.className = `line ${entry.level in LEVELS ? entry.level : ""}`;
  line.style.top = `${index * ROW}px`;
  const time = document.createElement("time");
  time.textContent = CLOCK.format(entry.time * 1000);
  const level = document.createElement("b");
  level.textContent = entry.level;
  line.append(time, level, entry.text);
  return line;
}
