"""Between the 8x8 ink grids of scikit-learn's digits and the pictures that people and models see.

Knows nothing of tasks, labels or models: what `read` returns depends on the picture alone.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID_SIDE = 8
FULL_INK = 16
PICTURE_SIDE = 64


def draw(grid: NDArray[np.float64]) -> Image.Image:
    """Draw one ink grid (8x8, 0 to 16) as black ink on white paper, large enough to look at."""
    paper = 255 - np.rint(grid * (255 / FULL_INK))
    small = Image.fromarray(paper.astype(np.uint8))
    return small.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.NEAREST)


def read(picture: Image.Image) -> NDArray[np.float64]:
    """Read a picture of any size as 64 ink values from 0 (paper) to 1 (full ink)."""
    small = picture.convert("L").resize((GRID_SIDE, GRID_SIDE), Image.Resampling.BOX)
    return 1 - np.asarray(small, dtype=np.float64).ravel() / 255
