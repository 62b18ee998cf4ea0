"""A whole fleet for fault tests: a queue server, a real MLflow server, boxes, and evaluations of a stand-in runner.

Everything is a real process. What a test may do to them is plain: signals, and what `Run` and `Box` offer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmms_digits
import psutil
import pytest
import redis
from mlflow import MlflowClient
from mlflow_process import MlflowProcess
from runner_output import documents, write_result

from mlflow_lmms.client import Client
from mlflow_lmms.errors import LmmsError
from mlflow_lmms.evaluation_queue import EvaluationQueue, Lease, job_id, split_job_id
from mlflow_lmms.kept_process import tied_command
from mlflow_lmms.redis_server import EmbeddedRedis

RUNNER = Path(__file__).with_name("fault_runner.py")
HELD_BOX = Path(__file__).with_name("held_box.py")
HELD_SLOT = Path(__file__).with_name("held_slot.py")
COMMAND = Path(sys.executable).with_name("mlflow-lmms")
TTL_S = 6.0
#: Generous: a machine that does ten other things must not fail a test.
PATIENCE_S = 90.0
TASK = "digits_vqa"
#: In the environment of every process that a box starts; runners have the lease's mark in its place.
WORLD_VARIABLE = "LMMS_FAULT_WORLD"


def until(found: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    """Poll until `found` returns something true and return that."""
    deadline = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.03)
    return value


def environ_of(pid: int) -> dict[str, str]:
    """A process's environment as it was started; empty when it has ended."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def words(process: psutil.Process) -> list[str]:
    """A process's command line; empty when it has ended."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_slot(process: psutil.Process) -> bool:
    told = words(process)
    return ("worker.slot" in told or str(HELD_SLOT) in told) and alive(process)


@dataclass
class Run:
    """One evaluation and the folder through which its runner is told what to do."""

    world: FaultWorld
    run_id: str
    control: Path

    @property
    def job(self) -> str:
        """Id of its (first) part's job."""
        return job_id(self.run_id, "0")

    def notes(self) -> list[str]:
        """What the runner has noted."""
        file = self.control / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def asked(self) -> list[str]:
        """The requests that the model was asked, repeated ones included."""
        return [note for note in self.notes() if note.startswith("asked")]

    def go(self) -> None:
        """Let a lingering runner go on."""
        (self.control / "go").touch()

    def linger(self, phase: str) -> list[psutil.Process]:
        """Wait until the runner lingers in a phase, and return the processes of its lease."""
        until(lambda: f"lingers {phase}" in self.notes() and self.lease(), f"{self.run_id} to linger in {phase}")
        return self.processes()

    def lease(self) -> Lease | None:
        """The lease under which it runs now."""
        return self.world.leases().get(self.job)

    def processes(self) -> list[psutil.Process]:
        """The living processes that are marked as this run's, keeper first."""
        return [found for found in self.world.marked() if self.run_id in environ_of(found.pid).get("LMMS_LEASE", "")]

    def facts(self) -> dict[str, Any]:
        """The evaluation as the server tells it; empty while the server is away."""
        try:
            return self.world.client.evaluation(self.run_id)
        except LmmsError:
            return {}

    def state(self) -> str:
        """State of the run."""
        return str(self.facts().get("state", ""))

    def attempt(self) -> int:
        """Attempt of its first task."""
        tasks = self.facts().get("tasks")
        return int(tasks[0]["attempt"]) if tasks else 0

    def ends(self, state: str = "finished", within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for its end, which must be `state`."""
        until(lambda: self.state() in ("finished", "failed", "cancelled"), f"{self.run_id} to end", within_s)
        facts = self.facts()
        assert facts["state"] == state, facts["tasks"]
        return facts

    def recorded(self) -> list[tuple[int, float]]:
        """Step and value of its score, once for each time that it was recorded, as MLflow keeps it."""
        history = MlflowClient(self.world.server.url).get_metric_history(self.run_id, f"{TASK}/exact_match")
        return [(metric.step, metric.value) for metric in history]

    def mlflow_status(self) -> str:
        """What MLflow's own page says."""
        return str(MlflowClient(self.world.server.url).get_run(self.run_id).info.status)


@dataclass
class Box:
    """One running worker command."""

    world: FaultWorld
    name: str
    process: psutil.Popen
    log: Path
    data: Path
    held: str = ""

    def arrives(self) -> None:
        """Wait until a slot has come to the point where it is held."""
        until((self.data / f"at-{self.held}").exists, f"a slot to come to {self.held}")

    def go(self) -> None:
        """Let the held slot go on."""
        (self.data / f"go-{self.held}").touch()

    def slots(self) -> list[psutil.Process]:
        """The processes of its slots."""
        try:
            children = self.process.children()
        except psutil.Error:
            return []
        return [child for child in children if _is_slot(child)]

    def horses(self) -> list[psutil.Process]:
        """The processes that its slots have forked."""
        found = []
        for slot in self.slots():
            with suppress(psutil.Error):
                found += [child for child in slot.children() if _is_slot(child)]
        return found

    def announced(self) -> bool:
        """Whether the fleet knows of it as a box that takes work."""
        with suppress(redis.RedisError):
            known, state = self.world.redis.hmget(f"lmms:box:{self.name}", "box", "state")
            return known is not None and state in (None, b"open")
        return False

    def kill(self) -> None:
        """SIGKILL for the supervisor and everything below it: what the loss of a box is."""
        tree = [self.process, *self.process.children(recursive=True)] if alive(self.process) else []
        for process in tree:
            with suppress(psutil.Error):
                process.suspend()  # so that nothing of it reacts to the end of something else
        for process in [*tree, *self.world.marked_on(self.name)]:
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()


@dataclass
class FaultWorld:
    """Queue server, MLflow server and boxes of one test session."""

    folder: Path
    template: Path | None = None
    ttl_s: float = TTL_S
    grace_s: float = 0.5
    auth: bool = False
    tasks: Path = field(default_factory=lmms_digits.tasks_folder)
    boxes: list[Box] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ident = uuid.uuid4().hex
        self.valkey = EmbeddedRedis(self.folder / "queue")
        self.redis_url = self.valkey.url
        self._count = 0

    def start(self) -> FaultWorld:
        """Start the servers."""
        self.start_queue()
        self.controls = self.folder / "controls"
        write_result(self.controls / "template", "stand_in", documents(20), 0.9, seed=1)
        self.python = self.folder / "python"
        self.python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I -S '{RUNNER}'\n")
        self.python.chmod(0o755)
        self.server = self._server()
        self.server.start()
        self.connect()
        return self

    def start_queue(self) -> None:
        """Start the queue server."""
        self.valkey.start()

    def _server(self) -> MlflowProcess:
        environ = {
            "MLFLOW_LMMS_LEASE_TTL_S": str(self.ttl_s),
            "MLFLOW_LMMS_TASK_FOLDERS": str(self.tasks),
            "MLFLOW_LMMS_RATE_LIMIT": "1000000 per minute",
            "MLFLOW_LMMS_PHASE_DEADLINES_S": "overtime=2",
            "MLFLOW_LMMS_NO_PROGRESS_S": "silent=2,other=1800",
            "HF_HUB_OFFLINE": "1",
        }
        server = MlflowProcess(self.folder / "server", self.redis_url, template=self.template, environ=environ)
        if self.auth:
            server.auth, server.host = True, "0.0.0.0"
        return server

    def connect(self) -> None:
        """Reach what runs."""
        self.client = Client(self.server.url)
        self.redis: redis.Redis = redis.Redis.from_url(self.redis_url, socket_timeout=5)
        self.queue = EvaluationQueue(self.redis_url)

    def now(self) -> float:
        """The queue server's clock, in unix seconds."""
        seconds, micros = self.redis.time()
        return float(seconds) + float(micros) / 1e6

    def leases(self) -> dict[str, Lease]:
        """The live leases; none while the queue server is away."""
        with suppress(LmmsError):
            return self.queue.leases()
        return {}

    def box(self, name: str = "b", *options: str, prefix: Sequence[str] = (), held: str = "", **more: str) -> Box:
        """Start a worker command and wait until the fleet knows of it.

        Args:
            prefix: goes before the command.
            held: the point at which its first slot to come there is held (held_slot).
            more: environment variables.
        """
        self._count += 1
        data = self.folder / f"data-{name}"
        data.mkdir(exist_ok=True)
        log = self.folder / f"{name}-{self._count}.log"
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "CUDA_"))}
        outside |= {
            "MLFLOW_LMMS_BOX": name,
            "MLFLOW_LMMS_REDIS_URL": self.redis_url,
            "MLFLOW_LMMS_LEASE_TTL_S": str(self.ttl_s),
            "MLFLOW_LMMS_STOP_GRACE_S": str(self.grace_s),
            WORLD_VARIABLE: self.ident,
        }
        program = [str(COMMAND)]
        if held:
            program = [sys.executable, "-P", str(HELD_BOX)]
            outside |= self._holding(held, data)
        command = [
            *prefix,
            *tied_command(program),
            "worker",
            "--data-folder",
            str(data),
            "--server-url",
            self.server.url,
        ]
        command += ["--environment", f"stand-in={self.python}", *options]
        with log.open("wb") as output:
            process = psutil.Popen(
                command,
                env=outside | more,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        box = Box(self, name, process, log, data, held)
        self.boxes.append(box)
        until(lambda: box.announced() or process.poll() is not None, f"box {name} to announce itself")
        assert process.poll() is None, log.read_text()
        return box

    def _holding(self, point: str, data: Path) -> dict[str, str]:
        for file in data.glob("*-" + point):
            file.unlink()
        python = self.folder / "held-python"
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *worker.slot*) exec {sys.executable} -P {HELD_SLOT};; '
            f'*) exec {sys.executable} "$@";; esac\n'
        )
        python.chmod(0o755)
        return {"LMMS_FAULT_HOLD": point, "LMMS_FAULT_FOLDER": str(data), "LMMS_FAULT_PYTHON": str(python)}

    def submit(self, *tasks: str, priority: str = "normal", **told: Any) -> Run:
        """Ask for an evaluation; `told` is what its runner is to do."""
        control = self.controls / uuid.uuid4().hex[:12]
        control.mkdir()
        answer = self.client.submit(
            adapter="stand-in",
            environment="stand-in",
            tasks=list(tasks or (TASK,)),
            gpus=0,
            priority=priority,
            model_args={"control": str(control), **{key: str(value) for key, value in told.items()}},
        )
        run = Run(self, str(answer["run_id"]), control)
        self.runs.append(run)
        return run

    def give_up(self) -> None:
        """After a failed test: let nothing of it stand in the way of the next."""
        for run in self.runs:
            run.go()
            with suppress(LmmsError):
                self.client.cancel(run.run_id)
        self.end_boxes()

    def end_boxes(self) -> None:
        """Let no box be there."""
        for box in self.boxes:
            if alive(box.process):
                box.kill()

    # What is there

    def marked(self) -> list[psutil.Process]:
        """Living processes that carry the lease's mark of one of this world's runs."""
        mine = {run.run_id for run in self.runs}
        found = []
        for process in psutil.process_iter():
            mark = environ_of(process.pid).get("LMMS_LEASE", "")
            if mark and split_job_id(mark)[0] in mine and alive(process):
                found.append(process)
        return found

    def marked_on(self, box: str) -> list[psutil.Process]:
        """Those of a box: by the folder that they work in."""
        found = []
        for process in self.marked():
            with suppress(psutil.Error):
                if f"/data-{box}/" in process.cwd():
                    found.append(process)
        return found

    def strays(self) -> list[str]:
        """Processes that are neither the supervisor of a living box, nor a slot or a helper that it started."""
        expected = set()
        for box in self.boxes:
            with suppress(psutil.Error):
                if alive(box.process):
                    expected |= {box.process.pid, *(child.pid for child in box.process.children())}
        found = [process for process in self._own() if process.pid not in expected]
        return [f"{process.pid}: {' '.join(words(process))}" for process in [*self.marked(), *found]]

    def _own(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            if environ_of(process.pid).get(WORLD_VARIABLE) == self.ident and alive(process):
                yield process

    def close(self) -> None:
        """End everything."""
        for process in [*self._own(), *self.marked()]:
            with suppress(psutil.Error):
                process.kill()
        for box in self.boxes:
            box.process.wait()
        with suppress(AttributeError):
            self.redis.close()
            self.server.stop()
        self.valkey.stop()

    # What a test does to the queue server

    def kill_valkey(self) -> None:
        """SIGKILL for the queue server."""
        assert self.valkey.process is not None
        self.valkey.process.kill()
        self.valkey.process.wait()
        self.valkey.process = None

    def wipe_valkey(self) -> None:
        """Lose everything that the queue server knew, its files too."""
        self.kill_valkey()
        for path in sorted((self.valkey.folder / "appendonlydir").glob("*")):
            path.unlink()
        self.valkey.start()

    def freeze_valkey(self) -> None:
        """Let the queue server hang: it takes connections and answers nothing."""
        assert self.valkey.pid is not None
        os.kill(self.valkey.pid, signal.SIGSTOP)

    def thaw_valkey(self) -> None:
        """Let it go on."""
        assert self.valkey.pid is not None
        os.kill(self.valkey.pid, signal.SIGCONT)


@pytest.fixture(scope="session")
def fault_world(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[FaultWorld]:
    """The fleet that the session's fault tests share; each leaves it without lease, job and stray process."""
    world = FaultWorld(tmp_path_factory.mktemp("fleet"), template=mlflow_template)
    try:
        yield world.start()
    finally:
        world.close()


@pytest.fixture
def box(fault_world: FaultWorld) -> Iterator[Box]:
    """The session's standing box with one slot; started again after a test that ended it."""
    standing = [box for box in fault_world.boxes if box.name == "standing" and alive(box.process)]
    yield standing[0] if standing else fault_world.box("standing", "--cpu-slots", "1")
