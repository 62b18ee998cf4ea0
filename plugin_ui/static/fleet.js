// The fleet, kept up to date: what the GPUs do changes from second to second, and no event tells it.

import { Refresher } from "./refresh.js";
import { listen } from "./stream.js";

const EVERY_MS = 3000;
const refresher = new Refresher(0);
const look = () => document.visibilityState === "visible" && refresher.soon();

setInterval(look, EVERY_MS);
document.addEventListener("visibilitychange", look);
listen(document.getElementById("fleet").dataset.feed, look);
