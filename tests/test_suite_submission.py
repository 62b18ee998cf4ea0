"""Evaluations of stored suites: the run remembers the revision and all that the suite said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.evaluation_json import evaluation_json
from mlflow_lmms.lifecycle import Claim
from mlflow_lmms.names import Artifact, Tag
from mlflow_lmms.request import Errored, EvaluationRequest
from mlflow_lmms.services import Services
from mlflow_lmms.suite import Suite
from mlflow_lmms.task_plan import check_suite
from mlflow_lmms.work_order import PROTOCOL, WorkOrder

CHARTS = {
    "name": "charts",
    "errored": {"policy": "wrong", "fail_above": 0.1},
    "tasks": [{"task": "chartqa", "primary": "relaxed_overall", "dimensions": ["type"]}, "ai2d"],
}


def put(services: Services, content: dict[str, Any]) -> int:
    revision, _ = services.suites.put(Suite.parse(content), by="ann", is_admin=False)
    return revision.revision


def submit(services: Services, **fields: Any) -> str:
    return services.submission.submit(EvaluationRequest.parse({"adapter": "dummy", **fields})).run_id


def claim(services: Services, run_id: str) -> WorkOrder:
    token = services.queue.next_token()
    return services.lifecycle.claim(
        Claim(protocol=PROTOCOL, run_id=run_id, part="0", token=token, box="box", slot="cpu0")
    )


def test_the_run_of_a_suite_has_its_tasks_and_remembers_the_revision(services: Services) -> None:
    put(services, CHARTS)
    run_id = submit(services, suite="charts")
    run = services.client.get_run(run_id)
    assert run.info.run_name == "dummy · charts"
    assert (run.data.tags[Tag.SUITE], run.data.tags[Tag.SUITE_REVISION]) == ("charts", "1")
    assert (run.data.params["tasks"], run.data.params["suite"]) == ("chartqa,ai2d", "charts@1")
    stored = json.loads(Path(services.client.download_artifacts(run_id, Artifact.REQUEST)).read_text())
    assert stored["request"]["suite_revision"] == 1
    assert stored["request"]["primary"] == {"chartqa": "relaxed_overall"}
    assert stored["tasks"] == ["chartqa", "ai2d"] and stored["groups"] == []
    shown = evaluation_json(services.store.get(run_id))
    assert shown["suite_revision"] == 1 and "--tasks chartqa,ai2d" in shown["command"]


def test_the_worker_gets_what_the_suite_says_as_it_was_at_submission(services: Services) -> None:
    put(services, CHARTS)
    run_id = submit(services, suite="charts")
    assert put(services, CHARTS | {"tasks": ["mme"], "errored": None}) == 2
    order = claim(services, run_id)
    assert order.tasks == ("chartqa", "ai2d")
    assert order.primary == {"chartqa": "relaxed_overall"} and order.dimensions == {"chartqa": ("type",)}
    assert order.errored == Errored(policy="wrong", fail_above=0.1)
    assert WorkOrder.model_validate(order.model_dump(mode="json")) == order


def test_an_older_revision_can_be_run(services: Services) -> None:
    put(services, CHARTS)
    put(services, CHARTS | {"tasks": ["mme"]})
    assert services.client.get_run(submit(services, suite="charts@1")).data.params["tasks"] == "chartqa,ai2d"
    newest = services.client.get_run(submit(services, suite="charts"))
    assert (newest.data.params["tasks"], newest.data.tags[Tag.SUITE_REVISION]) == ("mme", "2")


def test_what_the_request_says_wins_over_the_suite(services: Services) -> None:
    put(services, CHARTS)
    run_id = submit(
        services, suite="charts", primary="chartqa=relaxed_human_split", dimensions="ai2d=size", errored="drop"
    )
    order = claim(services, run_id)
    assert order.primary == {"chartqa": "relaxed_human_split"}
    assert order.dimensions == {"chartqa": ("type",), "ai2d": ("size",)}
    assert order.errored == Errored(policy="drop")


def test_a_request_without_choices_leaves_all_of_them_to_the_runner(services: Services) -> None:
    order = claim(services, submit(services, tasks="ai2d"))
    assert (order.primary, order.dimensions, order.errored) == ({}, {}, Errored())


def test_a_group_of_lmms_eval_is_still_a_suite(services: Services) -> None:
    run_id = submit(services, suite="mmbench")
    run = services.client.get_run(run_id)
    assert len(run.data.params["tasks"].split(",")) > 1
    assert Tag.SUITE_REVISION not in run.data.tags
    groups = services.store.get(run_id).groups
    assert "mmbench" in [group["name"] for group in groups]
    assert claim(services, run_id).groups == groups
    assert json.loads(Path(services.client.download_artifacts(run_id, Artifact.REQUEST)).read_text())["groups"]


def test_tasks_that_only_share_a_suites_name_remember_no_revision(services: Services) -> None:
    put(services, CHARTS)
    run = services.client.get_run(submit(services, suite="charts", tasks="mme"))
    assert (run.data.tags[Tag.SUITE], run.data.params["tasks"]) == ("charts", "mme")
    assert Tag.SUITE_REVISION not in run.data.tags


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"suite": "charts@7"}, NotFoundError, "no revision 7; its newest is 1"),
        ({"suite": "chart@1"}, NotFoundError, "no suite 'chart'"),
        ({"suite": "no-such"}, InvalidRequestError, "no task, group or tag 'no-such'"),
        ({"suite": "charts", "primary": "mme=x"}, InvalidRequestError, "primary: mme is none of the tasks"),
        ({"suite": "charts", "dimensions": "mme=x"}, InvalidRequestError, "dimensions: mme is none of the tasks"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_exists(
    services: Services, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    put(services, CHARTS)
    before = len(services.store.search())
    with pytest.raises(error, match=words):
        submit(services, **fields)
    assert len(services.store.search()) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"name": "s", "tasks": ["chartqa_all"]}, "no task, group or tag 'chartqa_all'; did you mean"),
        ({"name": "mmbench", "tasks": ["mme"]}, "'mmbench' is a group of lmms-eval"),
        ({"name": "mme", "tasks": ["mme"]}, "'mme' is a task of lmms-eval"),
        (
            {"name": "s", "tasks": [{"task": "chartqa", "primary": "relaxed_all"}]},
            "chartqa has no metric 'relaxed_all'; it has relaxed_overall",
        ),
        ({"name": "s", "tasks": ["mmbench_en", "mmbench_en_dev"]}, "has mmbench_en_dev twice"),
    ],
)
def test_a_suite_that_cannot_be_run_is_refused(services: Services, content: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        check_suite(Suite.parse(content), services.catalogue())


def test_a_sound_suite_is_accepted(services: Services) -> None:
    check_suite(Suite.parse(CHARTS), services.catalogue())
