// What the GPUs of a running evaluation do, from its live events: use, memory, heat and power.

const GIB = 2 ** 30;

function meter(value, max, label, text) {
  const cell = document.createElement("td");
  cell.className = "meter";
  const bar = Object.assign(document.createElement("progress"), { max: max || 1, value });
  bar.setAttribute("aria-label", label);
  const words = document.createElement("small");
  words.textContent = text;
  cell.append(bar, words);
  return cell;
}

function row(gpu) {
  const element = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = `${gpu.index ?? "–"} ${gpu.name ?? gpu.uuid}`;
  const use = gpu.utilisation ?? 0;
  const busy = gpu.utilisation == null ? "use unknown" : `${Math.round(use)} % busy`;
  const held = gpu.memory == null ? "" : `${(gpu.memory / GIB).toFixed(1)} of ${Math.round((gpu.memory_total ?? 0) / GIB)} GiB`;
  const heat = document.createElement("td");
  heat.className = "number aside";
  const told = [gpu.temperature == null ? "" : `${Math.round(gpu.temperature)} °C`, gpu.power_w == null ? "" : `${Math.round(gpu.power_w)} W`];
  heat.textContent = told.filter(Boolean).join(", ");
  element.append(
    name,
    meter(use, 100, `Use of GPU ${gpu.index}`, busy),
    meter(gpu.memory ?? 0, gpu.memory_total, `Memory of GPU ${gpu.index}`, held),
    heat,
  );
  return element;
}

export class GpuView {
  #root;
  #gpus = new Map();

  constructor(root) {
    this.#root = root;
  }

  add({ gpus, box = "" }) {
    for (const gpu of gpus) this.#gpus.set(`${box} ${gpu.uuid}`, gpu);
  }

  draw() {
    if (!this.#gpus.size) return;
    this.#root.hidden = false;
    this.#root.querySelector('[data-part="rows"]').replaceChildren(...[...this.#gpus.values()].map(row));
  }
}
