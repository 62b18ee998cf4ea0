"""The adapter of the tests of the warm start: the probe, which also tells in what kind of process it is."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runner_probe import RunnerProbe  # type: ignore[attr-defined]

# What an adapter must not do if it is to be imported once for many runs.
if os.environ.get("HF_WARM_PROBE_THREAD"):
    threading.Thread(target=threading.Event().wait, daemon=True).start()


class WarmProbe(RunnerProbe):  # type: ignore[misc]
    """Writes down what it finds as soon as it is loaded."""

    def __init__(self, facts: str = "", **options: object) -> None:
        super().__init__(**options)
        Path(facts).write_text(json.dumps(self._facts()))

    def _facts(self) -> dict[str, Any]:
        main: Any = sys.modules["__main__"]
        torch.ones(8, 8) @ torch.ones(8, 8)
        np.ones((300, 300)) @ np.ones((300, 300))
        return {
            "drawn": [random.random(), np.random.rand(), torch.rand(1).item()],
            "torch seed": torch.initial_seed(),
            "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "numexpr threads": sys.modules["numexpr"].nthreads if "numexpr" in sys.modules else None,
            "main": [main.__spec__.name, main.__name__, main.__package__, main.__file__],
            "argv": sys.argv,
            "path": sys.path,
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "environ": {k: v for k, v in os.environ.items() if k not in ("LMMS_LEASE", "LMMS_EVENT_FD")},
            "device": torch.cuda.is_available(),
            "shown": f"LMMS_LEASE={os.environ['LMMS_LEASE']}" in Path("/proc/self/environ").read_text().split("\0"),
            "parent": Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")[4],
        }
