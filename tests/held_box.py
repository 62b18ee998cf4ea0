"""The command ``mlflow-lmms worker`` whose slots are those of held_slot. A script, see `FaultWorld.box`."""

from __future__ import annotations

import os
import sys

from mlflow_lmms.cli.main import main

if __name__ == "__main__":
    sys.executable = os.environ["LMMS_FAULT_PYTHON"]  # starts held_slot where the supervisor asks for a slot
    main()
