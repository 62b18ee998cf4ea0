// Small pictures are shown enlarged with crisp pixels; large ones as they are.

const SMALL = 64;

function enlarge(image) {
  if (image.naturalWidth && Math.max(image.naturalWidth, image.naturalHeight) <= SMALL) image.classList.add("small");
}

for (const image of document.querySelectorAll(".pictures img")) {
  if (image.complete) enlarge(image);
  else image.addEventListener("load", () => enlarge(image), { once: true });
}
