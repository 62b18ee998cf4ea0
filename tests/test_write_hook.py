"""The hook on MLflow's writes: it names the run or experiment of every write, and never harms a request."""

# MLflow's internals carry few type hints.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from mlflow.server import handlers

from plugin_ui.write_hook import _OF_ALL_RUNS, _READING, _WRITE, install

RUN = "0123456789abcdef0123456789abcdef"
RUNS = "/api/2.0/mlflow/runs"


@dataclass
class Hooked:
    """An app that answers like MLflow's, and what the hook told."""

    status: int = 200
    answer: str = "{}"
    runs: list[str] = field(default_factory=list)
    experiments: list[str] = field(default_factory=list)

    def client(self) -> FlaskClient:
        app = Flask("answers")
        app.add_url_rule("/<path:path>", view_func=self._answer, methods=["GET", "POST"])
        install(app, self.runs.append, self.experiments.append)
        return app.test_client()

    def _answer(self, path: str) -> Response:
        return Response(self.answer, self.status, mimetype="application/json")


@pytest.mark.parametrize("prefix", ["", "/prefix"])
@pytest.mark.parametrize("api", ["/api/2.0", "/ajax-api/2.0", "/api/3.0"])
@pytest.mark.parametrize("key", ["run_id", "run_uuid"])
def test_a_write_names_its_run(prefix: str, api: str, key: str) -> None:
    hooked = Hooked()
    hooked.client().post(f"{prefix}{api}/mlflow/runs/log-batch", json={key: RUN, "metrics": []})
    assert (hooked.runs, hooked.experiments) == ([RUN], [])


def test_a_new_run_is_named_by_the_answer() -> None:
    hooked = Hooked(answer=json.dumps({"run": {"info": {"run_id": RUN}}}))
    hooked.client().post(f"{RUNS}/create", json={"experiment_id": "1"})
    assert hooked.runs == [RUN]


@pytest.mark.parametrize(("verb", "told"), [("delete", ["7"]), ("restore", ["7"]), ("update", []), ("search", [])])
def test_deleted_and_restored_experiments_are_named(verb: str, told: list[str]) -> None:
    hooked = Hooked()
    hooked.client().post(f"/api/2.0/mlflow/experiments/{verb}", json={"experiment_id": "7"})
    assert (hooked.runs, hooked.experiments) == ([], told)


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_what_mlflow_refused_is_not_told(status: int) -> None:
    hooked = Hooked(status)
    assert hooked.client().post(f"{RUNS}/set-tag", json={"run_id": RUN}).status_code == status
    assert hooked.runs == []


def test_reading_is_not_told() -> None:
    hooked = Hooked()
    hooked.client().get(f"{RUNS}/get?run_id={RUN}")
    hooked.client().post(f"{RUNS}/search", json={"run_id": RUN})
    assert hooked.runs == []


BODIES = [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b'{"run_id": 3}', b'{"run_id": {"a": []}}']
BODIES += [b'{"run_id": ""}', b"[" * 100_000, json.dumps({"run_id": "x" * 65}).encode(), b'{"run_id": null}']


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("path", [f"{RUNS}/set-tag", f"{RUNS}/create", "/api/2.0/mlflow/experiments/delete"])
def test_no_body_and_no_answer_does_harm(path: str, body: bytes) -> None:
    hooked = Hooked(answer=body.decode("latin-1"))
    answered = hooked.client().post(path, data=body)
    assert (answered.status_code, hooked.runs, hooked.experiments) == (200, [], [])


def test_every_way_in_which_mlflow_writes_to_runs_is_known() -> None:
    posts = {path for path, _, methods in handlers.get_endpoints() if "POST" in methods}
    writes = {path: _WRITE.search(path) for path in posts if "/mlflow/runs" in path or "/mlflow/experiments" in path}
    verbs: dict[Any, set[str]] = {"runs": set(), "experiments": set()}
    for found in writes.values():
        if found is not None:
            verbs[found["what"]].add(found["verb"])
    assert verbs["runs"] - _READING == {
        "create", "delete", "delete-tag", "log-batch", "log-inputs", "log-metric", "log-model", "log-parameter",
        "outputs", "restore", "set-tag", "update",
    }  # fmt: skip
    assert verbs["experiments"] >= _OF_ALL_RUNS
    others = {path for path, _, methods in handlers.get_endpoints() if {"PUT", "PATCH", "DELETE"} & {*methods}}
    assert not [path for path in others if "/mlflow/runs" in path]
