"""Spoils a picture the way a bad scan does: turned, out of focus, grainy or partly covered.

The work happens on a page of 1024x1024 points that is photographed down to the size of the original, so that a
slight turn or a thin strip is smooth instead of blocky. That is where the time of `digits_robust` goes. Knows
neither tasks nor labels; the same arguments always give the same picture.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PERTURBATIONS = ("rotated", "blurred", "noisy", "occluded")
SEVERITIES = (1, 2, 3)

PAGE_SIDE = 1024
WHITE = 255

DEGREES = {1: 15.0, 2: 30.0, 3: 50.0}
BLUR_RADIUS = {1: 50.0, 2: 90.0, 3: 130.0}
GRAIN = {1: 25.0, 2: 50.0, 3: 80.0}
COVERED_SHARE = {1: 0.12, 2: 0.24, 3: 0.36}


def perturb(picture: Image.Image, perturbation: str, severity: int, seed: int) -> Image.Image:
    """Return the spoiled picture, in the size of the original; `seed` decides what chance decides."""
    return _perturb(picture.convert("L").tobytes(), picture.size, perturbation, severity, seed).copy()


# The same picture is asked for again when samples are stored; 4096 of them take 16 MB.
@lru_cache(maxsize=4096)
def _perturb(grey: bytes, size: tuple[int, int], perturbation: str, severity: int, seed: int) -> Image.Image:
    page = Image.frombytes("L", size, grey).resize((PAGE_SIDE, PAGE_SIDE), Image.Resampling.BICUBIC)
    page = _SPOIL[perturbation](page, severity, np.random.default_rng(seed))
    return page.resize(size, Image.Resampling.BOX)


def _rotate(page: Image.Image, severity: int, chance: np.random.Generator) -> Image.Image:
    degrees = DEGREES[severity] * chance.choice([-1, 1]) * chance.uniform(0.8, 1.2)
    return page.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=WHITE)


def _blur(page: Image.Image, severity: int, chance: np.random.Generator) -> Image.Image:
    return page.filter(ImageFilter.GaussianBlur(BLUR_RADIUS[severity] * chance.uniform(0.9, 1.1)))


def _add_grain(page: Image.Image, severity: int, chance: np.random.Generator) -> Image.Image:
    """Grain of every size from a point to an eighth of the page: averaging must not simply remove it."""
    points = np.asarray(page, dtype=np.float32)
    side = PAGE_SIDE
    while side >= 8:
        grain = chance.standard_normal((side, side), dtype=np.float32) * np.float32(GRAIN[severity])
        points = points + np.kron(grain, np.ones((PAGE_SIDE // side,) * 2, dtype=np.float32))
        side //= 4
    return Image.fromarray(points.clip(0, WHITE).astype(np.uint8))


def _cover(page: Image.Image, severity: int, chance: np.random.Generator) -> Image.Image:
    """Lay a grey strip across the page, somewhere near the middle, at any angle."""
    strip = Image.new("L", (2 * PAGE_SIDE, 2 * PAGE_SIDE), 0)
    half = COVERED_SHARE[severity] * PAGE_SIDE / 2
    middle = PAGE_SIDE + chance.uniform(-0.2, 0.2) * PAGE_SIDE
    ImageDraw.Draw(strip).rectangle((0, middle - half, 2 * PAGE_SIDE, middle + half), fill=WHITE)
    turned = strip.rotate(chance.uniform(0, 180), Image.Resampling.BICUBIC)
    mask = turned.crop((PAGE_SIDE // 2, PAGE_SIDE // 2, PAGE_SIDE * 3 // 2, PAGE_SIDE * 3 // 2))
    covered = page.copy()
    covered.paste(int(chance.integers(64, 192)), mask=mask)
    return covered


_SPOIL: dict[str, Callable[[Image.Image, int, np.random.Generator], Image.Image]] = {
    "rotated": _rotate,
    "blurred": _blur,
    "noisy": _add_grain,
    "occluded": _cover,
}
