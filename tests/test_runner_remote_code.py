"""Code of a model's repository does not run, though the adapter asks for it. In a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import sys
from worker.runner.remote_code import RemoteCodeRefusedError, refuse_remote_code
if sys.argv[2] == "refuse":
    refuse_remote_code()
from transformers import AutoConfig
try:
    AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
except RemoteCodeRefusedError as error:
    print("refused:", error)
"""


@pytest.mark.lmms_eval
@pytest.mark.parametrize("way", ["refuse", "allow"])
def test_code_of_a_repository_runs_only_when_it_is_allowed(way: str, tmp_path: Path) -> None:
    repository = tmp_path / "model"
    repository.mkdir()
    about = {"model_type": "homemade", "auto_map": {"AutoConfig": "homemade.HomemadeConfig"}}
    (repository / "config.json").write_text(json.dumps(about))
    (repository / "homemade.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class HomemadeConfig(PretrainedConfig):\n    model_type = 'homemade'\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD, str(repository), way],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists() == (way == "allow")
    assert ("MLFLOW_LMMS_TRUST_REMOTE_CODE" in done.stdout) == (way == "refuse")
