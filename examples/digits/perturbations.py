"""Spoils a picture the way a bad scan does: turned, out of focus, grainy or partly covered.

The work happens on a page of 1024x1024 points that is photographed down to the size of the original, so that a
slight turn or a thin strip is smooth instead of blocky. That is where the time of `digits_robust` goes. Knows
neither tasks nor labels; the same arguments always give the same picture.
"""

import math
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
GRAIN = {1: 60.0, 2: 100.0, 3: 150.0}
COVERED_SHARE = {1: 0.12, 2: 0.24, 3: 0.36}


def perturb(picture: Image.Image, perturbation: str, severity: int, seed: int) -> Image.Image:
    """Return the spoiled picture, in the size of the original; `seed` decides what chance decides."""
    return _perturb(picture.convert("L").tobytes(), picture.size, perturbation, severity, seed).copy()


# The same picture is asked for again when samples are stored; 4096 of them take some 40 MB.
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
    """Grain of several sizes, from 2 to 64 points: averaging must not simply remove it."""
    points = np.asarray(page, dtype=np.float32)
    for side in (PAGE_SIDE // 2, PAGE_SIDE // 8, PAGE_SIDE // 64):
        grain = Image.fromarray(chance.standard_normal((side, side), dtype=np.float32))
        spread = np.asarray(grain.resize(page.size, Image.Resampling.BILINEAR), dtype=np.float32)
        points = points + GRAIN[severity] * spread
    return Image.fromarray(points.clip(0, WHITE).astype(np.uint8))


def _cover(page: Image.Image, severity: int, chance: np.random.Generator) -> Image.Image:
    """Lay a grey strip across the page, somewhere near the middle, at any angle."""
    along = math.pi * chance.uniform(0, 1)
    tangent = PAGE_SIDE * np.array([math.cos(along), math.sin(along)])
    normal = PAGE_SIDE * np.array([-math.sin(along), math.cos(along)])
    middle = PAGE_SIDE / 2 + normal * chance.uniform(-0.2, 0.2)
    half = normal * COVERED_SHARE[severity] / 2
    corners = (middle + half + tangent, middle + half - tangent, middle - half - tangent, middle - half + tangent)
    covered = page.copy()
    grey = int(chance.integers(64, 192))
    ImageDraw.Draw(covered).polygon([(x, y) for x, y in corners], fill=grey)
    return covered


_SPOIL: dict[str, Callable[[Image.Image, int, np.random.Generator], Image.Image]] = {
    "rotated": _rotate,
    "blurred": _blur,
    "noisy": _add_grain,
    "occluded": _cover,
}
