"""A server's services on SQLite and a real queue server, with evaluations in every state and real result files.

Results are written as the runner writes them (runner protocol 1) and recorded by the real recorder, so that pages and
API are tested on what they will find. Nothing of lmms-eval runs here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from mlflow import MlflowClient
from mlflow.server import handlers
from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR
from runner_output import EVIL, documents, write_result

from mlflow_lmms.evaluation_queue import LEASES_KEY, box_key, job_id, lease_key
from mlflow_lmms.lifecycle import Claim, Owner
from mlflow_lmms.redis_server import EmbeddedRedis
from mlflow_lmms.registry import ModelDescription, register_model
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.services import Services, build_services
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import FailureClass
from mlflow_lmms.work_order import PROTOCOL
from plugin_ui import api, pages
from plugin_ui.app import web_app
from plugin_ui.artifact_files import ArtifactFiles

TASK_FOLDER = Path(__file__).parents[1] / "examples" / "digits" / "tasks"
_PART = "0"


class EvaluationWorld:
    """Services and the hands of a worker."""

    def __init__(self, folder: Path, redis_url: str, backend_store_uri: str) -> None:
        self.folder = folder
        self.files = files = ArtifactFiles()
        self.settings = Settings(
            data_folder=folder / "data", redis_url=redis_url, task_folders=(TASK_FOLDER,), box="here"
        )
        self.services: Services = build_services(
            self.settings,
            backend_store_uri=backend_store_uri,
            registry_uri=backend_store_uri,
            fetch_artifact=files.fetch,
            store_artifact=files.store,
        )
        self.client: MlflowClient = self.services.client
        self.redis: redis.Redis = redis.Redis.from_url(redis_url)
        self.backend_store_uri = backend_store_uri
        self._token = 0

    def close(self) -> None:
        """Let go of everything."""
        self.services.store.engine.dispose()
        self.redis.close()
        self.files.close()

    def app(self) -> Flask:
        """Our Flask app on these services, where nobody has to sign in."""
        return web_app(self.services, None, *pages.BLUEPRINTS, *api.BLUEPRINTS)

    def register(self, name: str) -> str:
        """Register a model and return its URI."""
        mlflow.set_tracking_uri(self.backend_store_uri)  # where the store looks logged models up
        version = register_model(self.client, name, ModelDescription(adapter="digits", gpus=0))
        return f"models:/{name}/{version.version}"

    def submit(self, model: str, tasks: Sequence[str], **fields: Any) -> str:
        """Ask for an evaluation and return its run id."""
        request = EvaluationRequest.parse({"model": model, "tasks": list(tasks), **fields})
        return self.services.submission.submit(request).run_id

    def announce_box(self, box: str = "gpu-box-1", gpus: int = 0) -> None:
        """Let a box stand in the fleet, for an hour."""
        cards = [{"uuid": f"GPU-{number}", "name": "A card", "memory": 80} for number in range(gpus)]
        fields: dict[Any, Any] = {
            "box": box,
            "cpu_slots": 1,
            "gpu_slots": gpus,
            "gpus": json.dumps(cards),
            "version": "0.1.0",
            "protocol": PROTOCOL,
        }
        self.redis.hset(box_key(box), mapping={**fields, "environments": "[]"})
        self.redis.expire(box_key(box), 3600)

    def claim(self, run_id: str) -> Owner:
        """Take the run's part as a worker does, with a lease that lasts an hour."""
        self._token = self.services.queue.next_token(self._token)
        job = job_id(run_id, _PART)
        lease: dict[Any, Any] = {"box": "gpu-box-1", "slot": "cpu-0", "gpus": "[]", "token": self._token, "since": 0}
        self.services.queue.remove(run_id, _PART)
        self.redis.hset(lease_key(job), mapping=lease)
        self.redis.zadd(LEASES_KEY, {job: float(self.redis.time()[0]) + 3600})
        claim = Claim(protocol=PROTOCOL, run_id=run_id, part=_PART, token=self._token, box="gpu-box-1", slot="cpu-0")
        self.services.lifecycle.claim(claim)
        return Owner(run_id, _PART, self._token)

    def release(self, owner: Owner) -> None:
        """Give the part back, as a worker does at its end."""
        self.services.lifecycle.part_finished(owner)
        job = job_id(owner.run_id, owner.part)
        self.redis.zrem(LEASES_KEY, job)
        self.redis.delete(lease_key(job))

    def finish(self, owner: Owner, task: str, *, accuracy: float, count: int = 80, evil: bool = False) -> None:
        """Let a task finish with pictures, answers and scores."""
        lifecycle = self.services.lifecycle
        lifecycle.started(owner, task)
        lifecycle.recording(owner, task)
        output = self.folder / "output" / owner.run_id
        file = write_result(output, task, documents(count), accuracy, seed=len(owner.run_id) + owner.token, evil=evil)
        result = RunRecorder(self.client).record_task(owner.run_id, file, 1)
        metric = result.primary_metric
        assert metric is not None
        lifecycle.task_finished(owner, task, samples=result.samples, metric=metric.metric, score=metric.value)

    def finished_run(self, model: str, accuracy: float, *, evil: bool = False, **fields: Any) -> str:
        """A finished evaluation on two tasks, with a log."""
        run_id = self.submit(model, ["digits_vqa", "digits_robust"], **fields)
        owner = self.claim(run_id)
        for task in ("digits_vqa", "digits_robust"):
            self.finish(owner, task, accuracy=accuracy, evil=evil)
        messages = (
            ("INFO", "loading"),
            ("WARNING", f"slow {EVIL if evil else ''}"),
            ("ERROR", "one answer was empty"),
        )
        lines = [
            {"time": 1_700_000_000.0 + at, "level": level, "phase": "generate", "rank": 0, "message": message}
            for at, (level, message) in enumerate(messages)
        ]
        self.store_log(run_id, lines)
        self.release(owner)
        return run_id

    def store_log(self, run_id: str, lines: Sequence[dict[str, Any]]) -> None:
        """Store a log as the worker does at the end."""
        folder = self.folder / "logs" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        RunRecorder(self.client).record_run_files(run_id, folder)


@dataclass(frozen=True)
class Seeded:
    """The evaluations that stand in the world from the beginning."""

    world: EvaluationWorld
    finished: dict[str, str]  # model -> run id
    failed: str
    running: str
    queued: str

    @property
    def model(self) -> str:
        """URI of a registered model."""
        return "models:/k-nn/1"


@pytest.fixture(scope="module")
def seeded_world(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Seeded]:
    """A world with evaluations in every state, shared by a file; use it through `seeded`."""
    folder = tmp_path_factory.mktemp("world")
    uri = f"sqlite:///{shutil.copy(mlflow_template, folder / 'mlflow.db')}"
    queue = EmbeddedRedis(folder / "queue")
    queue.start()
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder, uri)
        world = EvaluationWorld(folder, queue.url, uri)
        seeded = seed(world)
    yield seeded
    world.close()
    queue.stop()


@pytest.fixture
def seeded(seeded_world: Seeded, monkeypatch: pytest.MonkeyPatch) -> Seeded:
    """The seeded world, with this process as its MLflow server."""
    enter(monkeypatch, seeded_world.world.folder, seeded_world.world.backend_store_uri)
    return seeded_world


@pytest.fixture
def visitor(seeded: Seeded) -> FlaskClient:
    """Somebody who opens pages and calls the API of the seeded world."""
    return seeded.world.app().test_client()


def enter(patch: pytest.MonkeyPatch, folder: Path, backend_store_uri: str) -> None:
    """Make this process an MLflow server on that database, as far as its stores go."""
    patch.chdir(folder)
    patch.setenv(BACKEND_STORE_URI_ENV_VAR, backend_store_uri)
    patch.setattr(handlers, "_tracking_store", None)
    patch.setattr(handlers, "_model_registry_store", None)


def seed(world: EvaluationWorld) -> Seeded:
    """Three finished evaluations, one with a failed task, one that runs and one that waits."""
    world.announce_box()
    models = {name: world.register(name) for name in ("centroid", "k-nn", "evil")}
    finished = {
        name: world.finished_run(models[name], accuracy) for name, accuracy in (("centroid", 0.7), ("k-nn", 1))
    }
    finished["evil"] = world.finished_run(models["evil"], 0.5, evil=True, run_name=f"run {EVIL}")
    failed = world.submit(models["k-nn"], ["digits_sum"])
    owner = world.claim(failed)
    world.services.lifecycle.started(owner, "digits_sum")
    told = (f"it raised {EVIL}", f"Traceback\nValueError: {EVIL}")
    world.services.lifecycle.task_failed(owner, "digits_sum", FailureClass.SCORING, *told, retryable=False)
    world.release(owner)
    running = world.submit(models["centroid"], ["digits_robust", "digits_vqa"], priority="high")
    world.services.lifecycle.started(world.claim(running), "digits_robust")
    queued = world.submit(models["k-nn"], ["digits"], gpus=4)
    return Seeded(world, finished, failed, running, queued)
