"""Entry point (``python -P -m worker.gpu_stream PARENT SECONDS``): tells the GPUs, a line of JSON each time.

A process of its own, because a driver in trouble may never answer: this one can be killed and started again.
"""

from __future__ import annotations

import signal
import sys
import time

from worker.gpu_inventory import INVENTORY_JSON
from worker.nvml_probe import NvmlProbe
from worker.process_tree import end_with_parent


def main() -> None:
    """Tell until the reader or the parent is gone."""
    parent, every_s = int(sys.argv[1]), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not end_with_parent(signal.SIGKILL, parent):
        return
    probe = NvmlProbe()
    try:
        while True:
            sys.stdout.buffer.write(INVENTORY_JSON.dump_json(probe.inventory()) + b"\n")
            sys.stdout.buffer.flush()
            time.sleep(every_s)
    except BrokenPipeError:
        sys.stderr.close()


if __name__ == "__main__":
    main()
