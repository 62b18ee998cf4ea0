// What every page has: local times and copy buttons.

import { showTimes } from "./times.js";

function showCopyButtons() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
}

async function copy(button) {
  const label = button.firstChild;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    label.textContent = "Copied";
  } catch {
    label.textContent = "Select and copy";
  }
  setTimeout(() => (label.textContent = "Copy"), 2000);
}

export function decorate() {
  showTimes();
  showCopyButtons();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
document.addEventListener("lmms:refreshed", decorate);
setInterval(showTimes, 1000);
decorate();
document.getElementById("problems")?.focus();
