"""A slot's warm start with real processes and a made-up evaluation environment, whose runner does what it is told."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

import worker
from worker.evaluation_environment import runner_environ
from worker.process_tree import processes_of
from worker.runner_process import RunnerEvent, RunnerProcess
from worker.warm_start import WarmStart

# What stands in for the runner: it does what the request says.
MAIN = """
import json, os, sys, time
request = json.load(sys.stdin)
out = os.fdopen(int(os.environ["LMMS_EVENT_FD"]), "w", buffering=1)
tell = lambda **facts: print(json.dumps(facts), file=out)
exec(request["code"])
sys.stdout.flush()
os._exit(request.get("status", 0))
"""
FORKED = "tell(forked='worker.runner.fork_server' in open('/proc/self/cmdline').read())\n"


def until(true: Callable[[], Any], seconds: float = 20.0, what: str = "the condition") -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what} did not come true in time"
        time.sleep(0.02)
    return found


@dataclass
class End:
    """What a run said until its end."""

    told: list[dict[str, Any]]
    lines: list[str]
    code: int

    @property
    def forked(self) -> bool:
        return bool(self.told[0]["forked"])


class Box:
    """One slot's warm start with a made-up evaluation environment."""

    def __init__(
        self, folder: Path, constants: Mapping[str, float] = MappingProxyType({}), warm: WarmStart | None = None
    ) -> None:
        self.folder = folder
        self.package = folder / "path" / "worker" / "runner"
        if not self.package.exists():
            self._make_package(constants)
        self.warm = warm or WarmStart(0.5)
        self.secrets: dict[str, str] = {}
        self.python = sys.executable
        self._count = 0

    def _make_package(self, constants: Mapping[str, float]) -> None:
        self.package.mkdir(parents=True)
        for name in ("bars", "evaluation", "log_capture", "remote_code", "__init__", "../__init__"):
            (self.package / f"{name}.py").touch()
        (self.package / "__main__.py").write_text(MAIN)
        (self.package / "own_tasks.py").write_text("def index_own_tasks(): pass\n")
        own = Path(worker.__file__).parent / "runner"
        for name in ("fork_safety", "lease_place", "events"):
            (self.package / f"{name}.py").symlink_to(own / f"{name}.py")
        server = (own / "fork_server.py").read_text()
        for name, value in constants.items():
            assert f"\n{name} = " in server
            server = server.replace(f"\n{name} = ", f"\n{name} = {value} or ")
        (self.package / "fork_server.py").write_text(server)

    def imports(self, code: str) -> None:
        """Have the environment do something when it is imported."""
        (self.package / "evaluation.py").write_text(code)

    def start(self, code: str, *, warm: bool = True, mark: str = "", **request: Any) -> RunnerProcess:
        self._count += 1
        self.mark = mark or f"test{uuid.uuid4().hex}-p0#{self._count}"
        environ = runner_environ(os.environ, mark=self.mark, gpus=["GPU-a"], secrets=self.secrets)
        environ["PYTHONPATH"] = str(self.package.parents[1])
        command = [self.python, "-P", "-m", "worker.runner"]
        if warm:
            command = self.warm.command(command, "", environ, self.secrets)
        folder = self.folder / "cwd"
        folder.mkdir(exist_ok=True)
        process = RunnerProcess(command, environ, folder, self.mark, 0.5)
        process.start({"code": FORKED + code, **request})
        return process

    def hear(self, process: RunnerProcess, count: int = 2) -> list[dict[str, Any]]:
        """Its first words."""
        told: list[dict[str, Any]] = []
        deadline = time.monotonic() + 20
        while len(told) < count:
            assert time.monotonic() < deadline, "the run does not say anything"
            told += [item.data for item in process.read(0.1) if isinstance(item, RunnerEvent)]
        return told

    def end(self, process: RunnerProcess) -> End:
        told, lines = [], []
        deadline = time.monotonic() + 30
        while not process.ended:
            assert time.monotonic() < deadline, "the run does not end"
            for item in process.read(0.1):
                if isinstance(item, RunnerEvent):
                    told.append(item.data)
                else:
                    lines.append(item.text)
        process.close()
        assert processes_of(self.mark) == [], "a process was left over"
        return End(told, lines, process.code)

    def run(self, code: str = "", **options: Any) -> End:
        return self.end(self.start(code, **options))

    def make_ready(self) -> None:
        assert not self.run().forked
        self.warm.tend()
        until(self.warm.serving, what="the fork server")

    def server_pids(self) -> list[int]:
        """The server's keeper and the server."""
        assert self.warm._process is not None
        keeper = psutil.Process(self.warm._process.pid)
        return [keeper.pid, *(child.pid for child in keeper.children())]
