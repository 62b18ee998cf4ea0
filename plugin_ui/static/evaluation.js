// One evaluation, live: progress, rate and running score per task, and the log. What the server renders is refreshed
// when a state changes; what moves many times a second is drawn here.

import { GpuView } from "./gpu_view.js";
import { LogView } from "./log_view.js";
import { Refresher } from "./refresh.js";
import { drawScores, formatScore } from "./score_chart.js";
import { listen } from "./stream.js";
import { span } from "./times.js";

const tasks = document.getElementById("tasks");
const chart = document.getElementById("chart");
const news = document.getElementById("news");
const consoleRoot = document.getElementById("console");
const log = consoleRoot && new LogView(consoleRoot); // a run that was imported may have none
const gpuRoot = document.getElementById("gpus");
const gpus = gpuRoot && new GpuView(gpuRoot); // of a run that goes on
const refresher = new Refresher(250);
const progress = new Map();
const scores = new Map();
let inFront = null;
let drawing = false;
const wasLive = tasks.dataset.live === "yes";
const openedAt = Number(tasks.dataset.now);
const GPU_FRESH_S = 30; // an older sample may be of a GPU that the run does not hold any more
let announced = 0;

function rowOf(task) {
  return [...tasks.querySelectorAll("tr[data-task]")].find((row) => row.dataset.task === task);
}

function progressText({ phase, done, total, rate, eta_s: eta }) {
  const pieces = [`${phase} ${done} of ${total}`];
  if (rate) pieces.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} per second`);
  if (eta !== null && eta !== undefined && done < total) pieces.push(`${span(eta)} left`);
  return pieces.join(" · ");
}

function drawProgress(row, data) {
  if (row.dataset.state === "finished" || row.dataset.state === "queued") return;
  const bar = row.querySelector('[data-part="bar"]');
  bar.max = data.total || 1;
  bar.value = data.done;
  row.querySelector('[data-part="progress"]').textContent = progressText(data);
}

function drawScore(task, row, points) {
  const last = points.at(-1);
  if (row.dataset.state !== "finished") {
    const cell = row.querySelector('[data-part="score"]');
    const value = document.createElement("span");
    value.className = "score";
    value.textContent = formatScore(last.value);
    const range = document.createElement("span");
    range.className = "plus-minus";
    if (last.low !== null && last.high !== null) range.textContent = ` ${formatScore(last.low)}–${formatScore(last.high)}`;
    const about = document.createElement("small");
    about.textContent = `${last.metric}, ${last.n} so far`;
    cell.replaceChildren(value, range, about);
  }
  if (points.length < 2) return;
  const spark = row.querySelector('[data-part="spark"]');
  spark.removeAttribute("hidden");
  spark.setAttribute("aria-label", `Running score of ${task}: ${formatScore(last.value)} after ${last.n} samples`);
  drawScores(spark, points);
}

function drawChart() {
  const points = scores.get(inFront);
  if (!points || points.length < 2) return;
  const part = (name) => chart.querySelector(`[data-part="${name}"]`);
  chart.hidden = false;
  part("title").textContent = `${inFront} (${points[0].metric})`;
  const { low, high, lastN } = drawScores(part("plot"), points, { grid: true });
  const label = (value) => Object.assign(document.createElement("span"), { textContent: value });
  part("axis").replaceChildren(...[high, (low + high) / 2, low].map((value) => label(Number(value.toPrecision(3)))));
  const last = points.at(-1);
  part("plot").setAttribute("aria-label", `Running score of ${inFront}: ${formatScore(last.value)} after ${last.n} samples`);
  part("ticks").replaceChildren(label("0"), label(`${lastN} samples`));
}

function draw() {
  drawing = false;
  for (const [task, data] of progress) {
    const row = rowOf(task);
    if (row) drawProgress(row, data);
  }
  for (const [task, points] of scores) {
    const row = rowOf(task);
    if (row) drawScore(task, row, points);
  }
  drawChart();
  gpus?.draw();
}

function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function announce(text, patient = false) {
  // Progress is told every 20 seconds at most; a screen reader would otherwise not come to rest.
  if (patient && Date.now() - announced < 20_000) return;
  announced = Date.now();
  news.textContent = text;
}

const on = {
  state(data) {
    if (data.state === "queued" || data.state === "starting") {
      progress.delete(data.task);
      scores.delete(data.task);
    }
    const row = data.task ? rowOf(data.task) : null;
    if (data.time < openedAt || row?.dataset.state === data.state) return;
    announce(data.task ? `${data.task} is ${data.state}` : `The evaluation is ${data.run_state}`);
    refresher.soon();
  },
  phase(data) {
    if (!data.task) return;
    const before = progress.get(data.task);
    progress.set(data.task, { done: 0, total: 0, ...before, ...data });
  },
  progress(data) {
    if (!data.task) {
      // Files of all tasks, in bytes.
      announce(`${Math.round((100 * data.done) / (data.total || 1))} % of its files are fetched`, true);
      return;
    }
    progress.set(data.task, data);
    announce(`${data.task}: ${progressText(data)}`, true);
  },
  score(data) {
    if (data.value === null) return;
    const points = scores.get(data.task) ?? [];
    // One line per task: the metric and filter that came first.
    if (points.length && (points[0].metric !== data.metric || points[0].filter !== data.filter)) return;
    if (points.length && data.n < points.at(-1).n) points.length = 0;
    points.push(data);
    scores.set(data.task, points);
    inFront = data.task;
  },
  gpu(data) {
    if (data.time > openedAt - GPU_FRESH_S) gpus?.add(data);
  },
  log(data) {
    // Of a run that had ended when the page was opened the log came from its artifact.
    if (log && (wasLive || data.time > openedAt)) log.add(data.lines);
  },
};

async function readLog() {
  const answer = await fetch(consoleRoot.dataset.log);
  if (answer.ok) log.replace((await answer.json()).lines);
}

document.addEventListener("lmms:refreshed", drawSoon);
if (log && !wasLive) readLog();
listen(tasks.dataset.events, (event) => {
  on[event.kind]?.(event);
  drawSoon();
});
