// Lists that follow the feed of all runs: the queue with its history, and the leaderboard.

import { Refresher } from "./refresh.js";
import { listen } from "./stream.js";

const list = document.getElementById("list");
const news = document.getElementById("news");
const refresher = new Refresher(1000);

listen(list.dataset.feed, (event) => {
  if (event.kind === "state") news.textContent = `${event.model}: ${event.task} is ${event.state}`;
  refresher.soon();
});
