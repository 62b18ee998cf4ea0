"""Runs `mlflow-lmms up` as a user would, and reaches into it: processes, data folder, client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmms_digits
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_lmms.client import Client

#: A secret that the stack's worker offers as OPENAI_API_KEY.
SECRET = "sk-e2e-" + "a7Q9" * 8

_START_S = 180.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def until(found: Callable[[], Any], *, within_s: float, what: str) -> Any:
    """Poll until `found` returns something true and return that; fail after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        value = found()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s:.0f} s for {what}")
        time.sleep(0.1)


def _waits_for_runs(process: psutil.Process) -> bool:
    """Whether it is a fork server or its keeper: a copy of the server has the same words, and a keeper of its own."""
    try:
        parent = process.parent()
        copied = parent is not None and "adopted" in parent.cmdline()
        return "worker.runner.fork_server" in process.cmdline() and not copied
    except psutil.Error:  # it has ended
        return False


class RunningStack:
    """`mlflow-lmms up` on a free port in `folder`; a context manager."""

    def __init__(
        self, folder: Path, *, task_folders: Sequence[Path], environ: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._task_folders = ",".join(str(path) for path in task_folders)
        self._environ = dict(environ or {})
        self._output = folder / "up.log"
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        empty = self.folder / "cwd"
        empty.mkdir(exist_ok=True)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        environ |= {"HF_HUB_OFFLINE": "1", "MLFLOW_LMMS_TASK_FOLDERS": self._task_folders, **self._environ}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mlflow_lmms.cli", "up", "--data-folder", str(self.data), "--port", "0"],
                cwd=empty,
                env=environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = until(self._address, within_s=_START_S, what="`mlflow-lmms up` to answer")
        self.client = Client(self.url)

    def _address(self) -> str:
        text = self._output.read_text(errors="replace")
        assert self.process.poll() is None, f"`mlflow-lmms up` ended with {self.process.returncode}:\n{text}"
        found = _ADDRESS.search(text)
        return found[0] if found else ""

    def stop(self) -> None:
        """Stop it as Ctrl-C does and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes below `up` whose command line holds `word`."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if word in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def runners(self) -> list[psutil.Process]:
        """The processes that run lmms-eval now."""
        fetching = {process.pid for process in self.processes("worker.runner.fetch")}
        return [
            process
            for process in self.processes("worker.runner")
            if process.pid not in fetching and not _waits_for_runs(process)
        ]

    def submit(self, model: str = "k-nearest-neighbours", **fields: Any) -> str:
        """Ask for an evaluation of the model's first version; returns the run id."""
        return str(self.client.submit(model=f"models:/{model}/1", **fields)["run_id"])

    def wait(self, run_id: str, *, within_s: float = 240.0) -> dict[str, Any]:
        """The evaluation after it has ended."""
        ended = ("finished", "failed", "cancelled")

        def look() -> dict[str, Any] | None:
            evaluation = self.client.evaluation(run_id)
            return evaluation if evaluation["state"] in ended else None

        found: dict[str, Any] = until(look, within_s=within_s, what=f"run {run_id} to end")
        return found

    def shown(self, run_id: str, status: str) -> Run:
        """The MLflow run once MLflow shows a status, which follows the evaluation's state within moments."""
        mlflow = MlflowClient(self.url)
        until(
            lambda: mlflow.get_run(run_id).info.status == status,
            within_s=30.0,
            what=f"MLflow to show run {run_id} as {status}",
        )
        return mlflow.get_run(run_id)

    def wait_for_state(self, run_id: str, state: str, *, within_s: float = 120.0) -> None:
        """Wait until a task of the run is in a state."""
        until(
            lambda: any(task["state"] == state for task in self.client.evaluation(run_id)["tasks"]),
            within_s=within_s,
            what=f"a task of {run_id} to be {state}",
        )


def write_faulty_tasks(folder: Path) -> Path:
    """Tasks made from the digits task: scoring raises, a data set is missing, a secret is printed."""
    folder.mkdir(parents=True)
    sound = lmms_digits.tasks_folder() / "digits_vqa.yaml"
    (folder / "faults.py").write_text("def raise_it(doc, results):\n    raise KeyError('no such answer key')\n")
    data = sound.parent / "data"
    files = "dataset_kwargs:\n  data_files:\n"
    files += "".join(f"    {split}: {data}/digits-{split}.parquet\n" for split in ("train", "test"))
    (folder / "scoring.py").write_text((sound.parent / "scoring.py").read_text())
    text = re.sub(r"dataset_kwargs:\n(?:[ #].*\n)+", files, sound.read_text())
    broken = text.replace("task: digits_vqa", "task: broken_scoring") + "process_results: !function faults.raise_it\n"
    (folder / "broken_scoring.yaml").write_text(broken)
    leak = "import os\n\n\ndef leak(doc, results):\n"
    leak += "    print('the secret is here', os.environ['OPENAI_API_KEY'])\n    return {'exact_match': 1.0}\n"
    (folder / "leaks.py").write_text(leak)
    leaking = text.replace("task: digits_vqa", "task: leaking_secret") + "process_results: !function leaks.leak\n"
    (folder / "leaking_secret.yaml").write_text(leaking)
    missing = text.replace("task: digits_vqa", "task: missing_dataset").replace(str(data), str(folder / "nowhere"))
    (folder / "missing_dataset.yaml").write_text(missing)
    return folder
