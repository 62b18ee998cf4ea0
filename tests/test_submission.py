"""Submission: a sound request comes into being in MLflow, tables and queue; of a refused one nothing is left."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from mlflow import MlflowClient
from mlflow.entities import ViewType

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.database import open_database
from mlflow_lmms.errors import (
    InvalidRequestError,
    LmmsError,
    NotFoundError,
    StorageFullError,
    UnavailableError,
)
from mlflow_lmms.evaluation_queue import EvaluationQueue, box_key
from mlflow_lmms.evaluation_store import EvaluationStore
from mlflow_lmms.names import Tag
from mlflow_lmms.registry import ModelDescription, ModelTag, register_model
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.services import Services
from mlflow_lmms.states import State
from mlflow_lmms.submission import Submission, Submitted


def submit(services: Services, *, by: str | None = None, **fields: Any) -> Submitted:
    asked = {"adapter": "dummy", "tasks": "ai2d"} | fields
    return services.submission.submit(EvaluationRequest.parse(asked), by=by)


def artifact(client: MlflowClient, run_id: str, path: str) -> str:
    return Path(client.download_artifacts(run_id, path)).read_text(encoding="utf-8")


def there(services: Services) -> tuple[int, int, int, list[str]]:
    """How many experiments, runs and evaluations there are, and what is queued."""
    experiments = [found.experiment_id for found in services.client.search_experiments(ViewType.ALL)]
    runs = services.client.search_runs(experiments, run_view_type=ViewType.ACTIVE_ONLY, max_results=5000)
    return len(experiments), len(runs), len(services.store.search()), services.queue.queued()


def submission(
    services: Services,
    *,
    store: EvaluationStore | None = None,
    queue: EvaluationQueue | None = None,
    store_artifact: Callable[[str, Path, str], None] | None = None,
) -> Submission:
    """The services' submission with one part exchanged."""

    def log_artifact(run_id: str, file: Path, folder: str) -> None:
        services.client.log_artifact(run_id, str(file), folder)

    return Submission(
        store or services.store,
        services.client,
        queue or services.queue,
        services.lifecycle,
        services.catalogue,
        store_artifact or log_artifact,
        services.settings,
        services.suites,
        lambda evaluation: [],
    )


def test_a_request_becomes_a_run_that_waits(services: Services) -> None:
    done = submit(
        services,
        by="ada",
        tasks="ai2d,mmmu_val",
        model_args={"pretrained": "org/model"},
        limit=8,
        gen_kwargs={"temperature": 0},
        priority="high",
        secrets=["HF_TOKEN"],
        suite="small",
    )
    run = services.client.get_run(done.run_id)
    assert run.info.status == "SCHEDULED"
    assert run.info.run_name == "org/model · small"
    assert run.data.params == {
        "model": "org/model",
        "adapter": "dummy",
        "model_args": "pretrained=org/model",
        "tasks": "ai2d,mmmu_val",
        "limit": "8",
        "offset": "0",
        "batch_size": "1",
        "gen_kwargs": "temperature=0",
        "gpus": "0",
        "seed.python": "0",
        "seed.numpy": "1234",
        "seed.torch": "1234",
        "seed.fewshot": "1234",
    }
    tags = run.data.tags
    assert (tags[Tag.STATE], tags[Tag.MODEL], tags[Tag.SUITE], tags[Tag.TASKS]) == (
        "queued",
        "org/model",
        "small",
        "ai2d,mmmu_val",
    )
    assert (tags[Tag.UNREGISTERED], tags[Tag.CREATED_BY], tags["mlflow.user"]) == ("true", "ada", "ada")
    request = json.loads(artifact(services.client, done.run_id, "lmms/request.json"))
    assert EvaluationRequest.parse(request["request"]).secrets == ("HF_TOKEN",)
    assert request["tasks"] == ["ai2d", "mmmu_val"]
    evaluation = services.store.get(done.run_id)
    assert (evaluation.state, evaluation.created_by, evaluation.priority) == (State.QUEUED, "ada", "high")
    assert services.queue.queued() == [f"{done.run_id}-0"]
    assert services.store.to_mirror() == []


def test_a_registered_model_is_resolved(services: Services, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    description = ModelDescription(
        adapter="digits", model_args={"dtype": "float16"}, files=tmp_path, gpus=2, environment="vllm"
    )
    version = register_model(services.client, "reader", description)
    services.client.set_registered_model_alias("reader", "champion", version.version)
    done = submit(services, adapter=None, model="models:/reader@champion", model_args={"batch": "4"})
    evaluation = services.store.get(done.run_id)
    assert evaluation.resolved.model_args == {"dtype": "float16", "batch": "4"}
    assert (evaluation.resolved.gpus, evaluation.resolved.environment) == (2, "vllm")
    assert evaluation.parts[0].gpus == 2
    run = services.client.get_run(done.run_id)
    assert run.info.run_name == f"reader v{version.version} · ai2d"
    assert run.data.tags[Tag.MODEL_VERSION] == str(version.version)
    assert Tag.UNREGISTERED not in run.data.tags
    assert done.warnings == (
        "no worker with 2 GPUs with the environment 'vllm' is listening: the run waits until one starts "
        "(`mlflow-lmms worker`); a model that needs no GPU is asked for with --gpus 0",
    )


def test_a_group_becomes_its_tasks(services: Services, catalogue: Catalogue) -> None:
    done = submit(services, tasks="refcoco")
    tasks = [task.task for task in services.store.get(done.run_id).tasks]
    assert len(tasks) > 3
    assert all(task in catalogue.tasks for task in tasks)
    assert services.client.get_run(done.run_id).data.tags[Tag.SUITE] == "refcoco"


def test_what_is_known_to_fail_is_said_at_once(services: Services) -> None:
    submit(services)
    (_, said) = submit(services, tasks="mmlu_continuation,ai2d").warnings
    assert said.startswith("mmlu_continuation_abstract_algebra, ")
    assert "and 54 more tasks: multiple_choice without process_results" in said


def test_several_tasks_without_a_suite_get_a_name(services: Services) -> None:
    done = submit(services, tasks="ai2d,mmmu_val,mme")
    assert services.store.get(done.run_id).suite == "ai2d +2"


def test_a_run_that_looks_at_a_few_samples_is_marked(services: Services) -> None:
    done = submit(services, smoke=3)
    run = services.client.get_run(done.run_id)
    assert (run.data.tags[Tag.SMOKE], run.data.params["limit"]) == ("3", "3")


def test_a_very_long_model_path_is_shown_by_its_end(services: Services) -> None:
    done = submit(services, model_args={"pretrained": "/data/" + "x" * 300 + "/step-7"}, suite="s" * 100)
    evaluation = services.store.get(done.run_id)
    assert len(evaluation.model) == 200
    assert evaluation.model.endswith("/step-7")
    assert len(evaluation.name) <= 250


REFUSED: list[tuple[dict[str, Any], type[LmmsError], str]] = [
    ({"tasks": "mmmu_vall"}, InvalidRequestError, "did you mean .*mmmu_val"),
    ({"tasks": "ai2d,nothing_like_it_9"}, InvalidRequestError, "'nothing_like_it_9'"),
    ({"adapter": None, "model": "models:/nobody/1"}, NotFoundError, "models:/nobody/1 is not in the Model Registry"),
    ({"adapter": None, "model": "models:/known/77"}, NotFoundError, "'known' has the versions 1"),
    ({"adapter": None, "model": "models:/known@nobody"}, NotFoundError, "'known' has the versions 1"),
    ({"adapter": None, "model": "models:/plain/1"}, InvalidRequestError, "does not say how lmms-eval loads it"),
    ({"adapter": None, "model": "models:/odd/1"}, InvalidRequestError, "lmms.model_args is a JSON object"),
    ({"adapter": None, "model": "models:/leaky/1"}, InvalidRequestError, "secrets=NAME"),
    ({"model_args": {"a": "1,2"}}, InvalidRequestError, "a comma must stand inside"),
    ({"gen_kwargs": {"until": "a,b"}}, InvalidRequestError, "a comma must stand inside"),
    ({"model_args": {"trust_remote_code": "True"}}, InvalidRequestError, "MLFLOW_LMMS_TRUST_REMOTE_CODE"),
    ({"experiment": "deleted-one"}, InvalidRequestError, "is deleted: restore it"),
]


@pytest.fixture
def known(services: Services) -> None:
    """Some models and a deleted experiment, made once a session."""
    client = services.client
    if client.get_experiment_by_name("deleted-one") is not None:
        return
    client.delete_experiment(client.create_experiment("deleted-one"))
    tags: dict[str, dict[str, str]] = {
        "known": {ModelTag.ADAPTER: "dummy"},
        "plain": {},
        "odd": {ModelTag.ADAPTER: "dummy", ModelTag.ARGUMENTS: "pretrained=a"},
        "leaky": {ModelTag.ADAPTER: "dummy", ModelTag.ARGUMENTS: '{"api_key": "geheim"}'},
    }
    for name, about in tags.items():
        client.create_registered_model(name)
        client.create_model_version(name, source="file:///nowhere", tags=about)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("fields", "error", "words"), REFUSED)
def test_what_cannot_work_is_refused_and_leaves_nothing(
    services: Services, fields: dict[str, Any], error: type[LmmsError], words: str
) -> None:
    before = there(services)
    with pytest.raises(error, match=words) as caught:
        submit(services, **fields)
    assert "geheim" not in caught.value.message
    assert there(services) == before


def test_without_a_queue_server_nothing_is_made(services: Services, tmp_path: Path) -> None:
    before = there(services)
    away = EvaluationQueue(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(UnavailableError, match=r"queue server at .*does not answer.*MLFLOW_LMMS_REDIS_URL"):
        submission(services, queue=away).submit(EvaluationRequest.parse({"adapter": "dummy", "tasks": "ai2d"}))
    assert there(services) == before


def test_without_a_database_nothing_is_made(services: Services, tmp_path: Path) -> None:
    before = there(services)
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    store = EvaluationStore(open_database(f"sqlite:///{tmp_path}/broken.db"))
    with pytest.raises(UnavailableError, match="database"):
        submission(services, store=store).submit(EvaluationRequest.parse({"adapter": "dummy", "tasks": "ai2d"}))
    assert there(services) == before
    store.engine.dispose()


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [(errno.ENOSPC, StorageFullError, "make room"), (errno.EIO, UnavailableError, "could not be stored")],
)
def test_a_disk_that_takes_nothing_leaves_no_run(
    services: Services, number: int, error: type[LmmsError], words: str
) -> None:
    submit(services)
    before = there(services)

    def full(run_id: str, file: Path, folder: str) -> None:
        raise OSError(number, "the disk takes nothing", str(file))

    with pytest.raises(error, match=words):
        submission(services, store_artifact=full).submit(
            EvaluationRequest.parse({"adapter": "dummy", "tasks": "ai2d"})
        )
    assert there(services) == before


def test_a_queue_server_that_leaves_in_between_only_delays_the_run(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*args: object, **kwargs: object) -> None:
        raise UnavailableError("the queue server does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(services.queue, "enqueue", leave)
        done = submit(services)
    assert "waits until the queue server is back" in done.warnings[-1]
    assert services.queue.queued() == []
    services.reaper.tick()
    assert services.queue.queued() == [f"{done.run_id}-0"]


def announce(empty_valkey: str, box: str, **fields: Any) -> None:
    """Write what a box says of itself."""
    about = {"box": box, "cpu_slots": 1, "gpu_slots": 0, "gpus": "[]", "version": "0", "protocol": 1} | fields
    with redis.Redis.from_url(empty_valkey) as connection:
        connection.hset(box_key(box), mapping=about)


def test_a_box_that_can_run_it_silences_the_warning(services: Services, empty_valkey: str) -> None:
    assert "no worker with a CPU slot is listening" in submit(services).warnings[0]
    announce(empty_valkey, "cpu")
    assert submit(services).warnings == ()
    assert "no worker with 1 GPU is listening" in submit(services, gpus=1).warnings[0]
    announce(empty_valkey, "gpu", gpu_slots=1, gpus=json.dumps([{"uuid": "a"}, {"uuid": "b"}]))
    assert submit(services, gpus=2).warnings == ()
    assert "no worker with 3 GPUs is listening" in submit(services, gpus=3).warnings[0]
    assert "with the environment 'vllm'" in submit(services, environment="vllm").warnings[0]
    announce(empty_valkey, "env", environments=json.dumps(["vllm"]))
    assert submit(services, environment="vllm").warnings == ()


def test_a_new_experiment_is_told_to_whoever_owns_it(services: Services) -> None:
    request = EvaluationRequest.parse({"adapter": "dummy", "tasks": "ai2d", "experiment": f"of {id(services)}"})
    assert services.submission.experiment_for(request) == (None, request.experiment)
    told: list[str] = []
    done = services.submission.submit(request, on_new_experiment=told.append)
    assert told == [done.experiment_id]
    services.submission.submit(request, on_new_experiment=told.append)
    assert len(told) == 1
    assert services.submission.experiment_for(request) == (done.experiment_id, request.experiment)


def test_without_one_asked_for_the_settings_experiment_is_taken(services: Services) -> None:
    done = submit(services)
    experiment = services.client.get_experiment(done.experiment_id)
    assert experiment.name == services.settings.experiment == "lmms-eval"


def test_no_secret_value_can_be_asked_for(services: Services) -> None:
    with pytest.raises(InvalidRequestError):
        submit(services, secrets=["sk-abcdefghijklmnopqrstuvwxyz"])
