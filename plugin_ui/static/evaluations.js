// Lists that follow the feed of all runs: the queue with its history, and the leaderboard.

import { Refresher } from "./refresh.js";
import { listen } from "./stream.js";

const list = document.getElementById("list");
const news = document.getElementById("news");
const refresher = new Refresher(1000);
const opened = Date.now() / 1000;

listen(list.dataset.feed, ({ time, data }) => {
  if (time < opened) return;
  if (data.run_state) news.textContent = `${data.model ?? "An evaluation"}: ${data.task ?? ""} ${data.state ?? data.run_state}`;
  refresher.soon();
});
