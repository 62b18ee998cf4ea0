"""The suites' pages, and pages of runs that no queue knows: shown, changed by forms, nothing hostile gets through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest
from evaluation_world import Seeded
from flask.testing import FlaskClient
from output_folders import write_results
from runner_output import EVIL

from mlflow_lmms.importing.discovery import discover
from mlflow_lmms.importing.import_run import Importer, ImportOptions
from mlflow_lmms.importing.model_map import ModelMap
from mlflow_lmms.names import Artifact, Tag
from mlflow_lmms.scrubbing import Scrubber

YAML = f"""name: letters
description: {EVIL}
errored: {{policy: drop, fail_above: 0.1}}
tasks:
- task: digits_vqa
  primary: exact_match
  weight: 2.0
  margin: 0.01
  dimensions: [perturbation]
- digits_sum
"""


@pytest.fixture
def visitor(seeded: Seeded) -> Iterator[FlaskClient]:
    """Somebody who opens pages where there are no suites."""
    yield seeded.world.app().test_client()
    with seeded.world.services.store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM lmms_suite_revisions")
        connection.exec_driver_sql("DELETE FROM lmms_suites")


def opened(visitor: FlaskClient, path: str, status: int = 200) -> str:
    answer = visitor.get(path)
    assert answer.status_code == status, answer.text
    assert EVIL not in answer.text
    return answer.text


def stored(visitor: FlaskClient, status: int = 303, **form: str) -> str:
    answer = visitor.post("/lmms/suites", data=form)
    assert answer.status_code == status, answer.text
    assert EVIL not in answer.text
    return answer.text


def test_a_suite_is_written_in_the_form_and_shown_with_its_revisions(visitor: FlaskClient) -> None:
    assert "No suite yet" in opened(visitor, "/lmms/suites")
    stored(visitor, yaml=YAML, note="first")
    assert 'href="/lmms/suites/letters"' in opened(visitor, "/lmms/suites")
    page = opened(visitor, "/lmms/suites/letters")
    for shown in ("exact_match", "0.01", "perturbation", "left out; more than 10 % fail a task", escape(EVIL)):
        assert shown in page
    assert "Store as revision 2" in page
    changed = YAML.replace("- digits_sum", "- digits_robust")
    stored(visitor, yaml=changed, note="other tasks", base="1", about="letters")
    page = opened(visitor, "/lmms/suites/letters")
    assert "revision 2" in page and "other tasks" in page and "first" in page
    old = opened(visitor, "/lmms/suites/letters?revision=1")
    assert "revision 1 of 2" in old and "digits_sum" in old
    assert "/lmms/evaluations/new?suite=letters@1" in old
    opened(visitor, "/lmms/suites/letters?revision=9", 404)
    opened(visitor, "/lmms/suites/nothing", 404)


def test_what_is_wrong_with_a_suite_stands_on_the_form_and_nothing_typed_is_lost(visitor: FlaskClient) -> None:
    page = stored(visitor, 400, yaml="name: x\ntasks: [no_such_task]", note="my note")
    assert "no_such_task" in page and 'value="my note"' in page and "tasks: [no_such_task]" in page
    stored(visitor, yaml=YAML)
    assert "there is a suite" in stored(visitor, 409, yaml=YAML)
    late = stored(visitor, 409, yaml=YAML.replace("2.0", "3.0"), base="7", about="letters")
    assert "the change was made from 7" in late and "weight: 3.0" in late


def test_a_new_evaluation_offers_suites_and_shows_their_tasks(seeded: Seeded, visitor: FlaskClient) -> None:
    stored(visitor, yaml=YAML)
    page = opened(visitor, "/lmms/evaluations/new?suite=letters")
    assert 'data-suite="letters"' in page and "revision 1: digits_vqa, digits_sum" in page
    assert 'value="letters"' in page
    sent = {"model": seeded.model, "suite": "letters", "batch_size": "1", "priority": "normal"}
    answer = visitor.post("/lmms/evaluations/new", data=sent)
    assert answer.status_code == 303
    run_id = answer.headers["Location"].rpartition("/")[2]
    assert "letters, revision 1" in opened(visitor, f"/lmms/evaluations/{run_id}")
    seeded.world.services.lifecycle.cancel(run_id)
    refused = visitor.post("/lmms/evaluations/new", data=sent | {"suite": "letters@5"})
    assert refused.status_code == 404 and 'id="suite-problem"' in refused.text
    refused = visitor.post("/lmms/evaluations/new", data=sent | {"primary": "mme=x"})
    assert refused.status_code == 400 and 'id="primary-problem"' in refused.text


@pytest.fixture
def outsider(seeded: Seeded) -> Iterator[str]:
    """A run as an importer leaves it, with a warning, errored samples, several answers and a group."""
    world = seeded.world
    twin = world.client.get_run(seeded.finished["centroid"])
    tags = {key: value for key, value in twin.data.tags.items() if key.startswith("lmms.task.")}
    primary = json.loads(tags[Tag.primary("digits_vqa")]) | {"warnings": ["below_chance"]}
    tags |= {Tag.primary("digits_vqa"): json.dumps(primary), Tag.MODEL: "outsider", Tag.SOURCE: "import"}
    made = world.client.create_run(twin.info.experiment_id, run_name="a folder", tags=tags).info.run_id
    for name, value in twin.data.metrics.items():
        world.client.log_metric(made, name, value)
    folder = world.folder / "outsider"
    world.client.download_artifacts(twin.info.run_id, "lmms", str(world.folder)) if not folder.exists() else None
    (world.folder / "lmms").rename(folder) if not folder.exists() else None
    file = folder / "tasks" / "digits_vqa.json"
    told = json.loads(file.read_text())
    told["warnings"] = [
        {"name": "below_chance", "message": f"It is below chance {EVIL}", "count": 3, "of": 80,
         "examples": ["document 4", EVIL]}
    ]  # fmt: skip
    told["errored"] = {"count": 2, "reasons": {"blank answer": 2}, "policy": "as_scored", "fail_above": None}
    told["stability"] = {"k": 3, "metric": "exact_match", "filter": "none", "EA": 0.61, "CA": None, "IV": 0.1}
    told["stability"] |= {"CR": 0.5, "note": "only so much"}
    file.write_text(json.dumps(told))
    groups = {"digits": [{"metric": "exact_match", "filter": "none", "value": None, "n": 0, "rule": "declared",
                          "reason": "no result of digits_sum"}]}  # fmt: skip
    (folder / "results.json").write_text(json.dumps({"results": {}, "groups": groups}))
    world.client.log_artifacts(made, str(folder), Artifact.ROOT)
    world.client.set_terminated(made)
    world.services.scores.refresh_run(made)
    yield made
    world.client.delete_run(made)
    world.services.scores.refresh_run(made)


def test_an_imported_run_has_a_page_with_all_that_is_known_of_it(visitor: FlaskClient, outsider: str) -> None:
    page = opened(visitor, f"/lmms/evaluations/{outsider}")
    assert "imported from output files" in page
    assert "digits_vqa: Below chance" in page and "3 of 80" in page and "Not ranked unless asked for" in page
    assert f'href="/lmms/evaluations/{outsider}/samples/digits_vqa?offset=4"' in page
    assert "they count as lmms-eval scored them" in page and "samples/digits_vqa?errored=1" in page
    assert "only so much" in page and "0.610" in page
    assert "no result of digits_sum" in page
    assert "The same without the queue" not in page and "/cancel" not in page and "/retry" not in page
    assert "mean of samples" in page and ">fraction</small>" in page
    samples = opened(visitor, f"/lmms/evaluations/{outsider}/samples/digits_vqa?wrong=1")
    assert "wrong samples" in samples and "/media/0" in samples
    assert "No sample is errored." in opened(visitor, f"/lmms/evaluations/{outsider}/samples/digits_vqa?errored=1")


def test_a_task_without_a_samples_file_says_so(seeded: Seeded, visitor: FlaskClient, tmp_path: Path) -> None:
    client = seeded.world.client
    write_results(tmp_path, {"my_vqa": {"exact_match,none": 0.8}})
    importer = Importer(client, ImportOptions(), ModelMap(client, {}), Scrubber())
    (outcome,) = importer.import_all(discover([tmp_path])).files
    assert outcome.run_id is not None
    path = f"/lmms/evaluations/{outcome.run_id}/samples/my_vqa"
    for query in ("", "?show=wrong", "?search=zebra"):
        page = opened(visitor, path + query)
        assert "There is no samples file of this task" in page
        assert "No sample" not in page and "judged by" not in page
    client.delete_run(outcome.run_id)


def test_an_imported_run_stands_in_the_list_of_evaluations(visitor: FlaskClient, outsider: str) -> None:
    page = opened(visitor, "/lmms/evaluations?model=outsider")
    assert f'data-run="{outsider}"' in page and "imported from output files" in page
    assert "No evaluation matches" in opened(visitor, "/lmms/evaluations?model=outsider&state=failed")
    found = visitor.get("/lmms/api/v1/evaluations?limit=1000").get_json()["evaluations"]
    assert outsider in [evaluation["run_id"] for evaluation in found]
    times = [evaluation["created_at"] for evaluation in found]
    assert times == sorted(times, reverse=True)
    failed = visitor.get("/lmms/api/v1/evaluations?state=failed").get_json()["evaluations"]
    assert outsider not in [evaluation["run_id"] for evaluation in failed]


def test_a_flagged_result_is_on_the_board_with_its_warning_and_ranked_when_asked_for(
    visitor: FlaskClient, outsider: str
) -> None:
    page = opened(visitor, "/lmms/leaderboard")
    assert f'href="/lmms/evaluations/{outsider}#warnings"' in page and "Below chance, 3 of 80" in page
    api = "/lmms/api/v1/leaderboard"
    for query, ranked in (("", False), ("?flagged=1", True)):
        (row,) = [row for row in visitor.get(api + query).get_json()["rows"] if row["model"] == "outsider"]
        cell = row["cells"]["digits_vqa"]
        assert (cell["rank"] is not None) is ranked
        assert cell["flagged"] == ["below_chance"] and cell["warnings"][0]["count"] == 3
        assert row["cells"]["digits_robust"]["rank"] is not None
    assert "checked> Rank flagged" in opened(visitor, "/lmms/leaderboard?flagged=1")


def test_published_scores_stand_beside_ours_with_their_source(seeded: Seeded, visitor: FlaskClient) -> None:
    client, scores = seeded.world.client, seeded.world.services.scores
    primary = json.dumps({"metric": "exact_match", "filter": "none", "higher_is_better": True})
    tags = {Tag.MODEL: "published", Tag.SOURCE: "reported", Tag.REPORTED_SOURCE: f"a paper {EVIL}"}
    run_id = client.create_run("0", run_name="p", tags=tags | {Tag.primary("digits_vqa"): primary}).info.run_id
    client.log_metric(run_id, "digits_vqa/exact_match", 0.998)
    client.set_terminated(run_id)
    before = visitor.get("/lmms/api/v1/leaderboard").get_json()
    scores.refresh_run(run_id)
    try:
        board = visitor.get("/lmms/api/v1/leaderboard").get_json()
        (row,) = [row for row in board["rows"] if row["model"] == "published"]
        assert (row["rank"], row["win_rate"], row["cells"]) == (None, None, {})
        assert row["reported"]["digits_vqa"][0]["value"] == 0.998
        assert [r for r in board["rows"] if r is not row] == before["rows"]
        assert board["verdicts"] == before["verdicts"]
        page = opened(visitor, "/lmms/leaderboard")
        assert ">0.998 reported</a> by a paper" in page
        told = opened(visitor, f"/lmms/evaluations/{run_id}")
        assert "published by others: a paper" in told and 'id="console"' not in told and "/samples/" not in told
    finally:
        client.delete_run(run_id)
        scores.refresh_run(run_id)
