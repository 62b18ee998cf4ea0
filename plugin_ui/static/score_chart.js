// Running scores as small SVG drawings: a line for the score so far and a band for its interval.

const SVG = "http://www.w3.org/2000/svg";

export function formatScore(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size > 0 && size < 0.01) return String(Number(value.toPrecision(2)));
  return value.toFixed(size < 10 ? 3 : size < 1000 ? 2 : 0);
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export function bounds(points) {
  let low = Infinity;
  let high = -Infinity;
  // The first intervals are so wide that they would flatten the rest.
  const from = points.length > 4 ? Math.min(2, points.length - 2) : 0;
  points.forEach((point, at) => {
    low = Math.min(low, at >= from ? (point.low ?? point.value) : point.value);
    high = Math.max(high, at >= from ? (point.high ?? point.value) : point.value);
  });
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return { low: low - room, high: high + room };
}

export function drawScores(svg, points, { grid = false } = {}) {
  const { width, height } = svg.viewBox.baseVal;
  const { low, high } = bounds(points);
  const firstN = grid ? 0 : points[0].n;
  const lastN = Math.max(points.at(-1).n, firstN + 1);
  const x = (n) => (((n - firstN) / (lastN - firstN)) * width).toFixed(2);
  const y = (value) => (Math.min(1, Math.max(0, (high - value) / (high - low))) * height).toFixed(2);
  const parts = [];
  if (grid) for (const at of [0.5, height / 2, height - 0.5]) parts.push(shape("line", { class: "grid", x1: 0, x2: width, y1: at, y2: at }));
  const banded = points.filter((point) => point.low !== null && point.high !== null);
  if (banded.length > 1) {
    const above = banded.map((point) => `${x(point.n)},${y(point.high)}`);
    const below = banded.toReversed().map((point) => `${x(point.n)},${y(point.low)}`);
    parts.push(shape("polygon", { class: "band", points: [...above, ...below].join(" ") }));
  }
  parts.push(shape("polyline", { class: "line", points: points.map((point) => `${x(point.n)},${y(point.value)}`).join(" ") }));
  svg.replaceChildren(...parts);
  return { low, high, lastN };
}
