"""The state of the process's random number generators, taken and put back.

Owns nothing else. Work that the bare lmms-eval command would not do must leave these generators as it found them,
or scores that draw from them would differ.
"""

from __future__ import annotations

import random
import sys
from typing import Any, NamedTuple

import numpy as np


class RandomState(NamedTuple):
    """State of Python's, NumPy's and (where it is loaded) torch's global generators."""

    python: Any
    numpy: Any
    torch: Any

    @classmethod
    def take(cls) -> RandomState:
        """Remember where the generators stand."""
        torch = sys.modules.get("torch")
        # The legacy generator is what lmms-eval seeds and what tasks draw from.
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None)

    def restore(self) -> None:
        """Put the generators back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        if self.torch is not None:
            sys.modules["torch"].set_rng_state(self.torch)


def seed_all(python: int, numpy: int, torch: int) -> None:
    """Seed the generators as lmms-eval does before it loads a task."""
    random.seed(python)
    np.random.seed(numpy)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(torch)
