"""The pages of an imported run: log-likelihoods, media that are not there, warnings of many tasks in one box."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_world import Seeded
from flask.testing import FlaskClient
from output_folders import config, row, write_results, write_samples

from mlflow_lmms.importing.discovery import discover
from mlflow_lmms.importing.import_run import Importer, ImportOptions
from mlflow_lmms.importing.model_map import ModelMap, parse_map
from mlflow_lmms.scrubbing import Scrubber

_PAIRS = [["-27.88", "False"], ["-3.25", "True"], ["-40.5", "False"]]
#: The first two are in the catalogue: a task of texts and one of pictures.
_TASKS = ("arc_challenge", "ai2d", "my_task")
_BARE = ("without_a", "without_b")


def write_run(folder: Path) -> None:
    """Answers by log-likelihood or in words, and tasks without samples."""
    entries = {task: {"acc,none": 0.5, "acc_stderr,none": 0.1} for task in (*_TASKS, *_BARE)}
    configs = {task: config(task, entry) for task, entry in entries.items()}
    configs["arc_challenge"]["output_type"] = "multiple_choice"
    options = {"resps": [[pair] for pair in _PAIRS], "filtered_resps": _PAIRS, "target": "1"}
    for task in _TASKS:
        told = options if task == "arc_challenge" else {}
        write_samples(folder, task, [row(doc_id, acc=float(doc_id % 2), **told) for doc_id in range(10)])
    write_results(folder, entries, configs=configs)


@pytest.fixture
def run_id(seeded: Seeded, tmp_path: Path) -> str:
    """Written by the first test and found again by the others: importing again adds nothing."""
    write_run(tmp_path)
    client = seeded.world.client
    importer = Importer(client, ImportOptions(), ModelMap(client, parse_map(())), Scrubber())
    (outcome,) = importer.import_all(discover([tmp_path])).files
    assert outcome.run_id is not None, outcome
    return outcome.run_id


def main_part(visitor: FlaskClient, path: str) -> str:
    """The page without its frame."""
    answer = visitor.get(f"/lmms/evaluations/{path}")
    assert answer.status_code == 200, answer.text
    return answer.text.partition("<main")[2]


def test_log_likelihoods_are_listed_by_option_and_no_raw_json_is_shown(run_id: str, visitor: FlaskClient) -> None:
    page = main_part(visitor, f"{run_id}/samples/arc_challenge")
    assert page.count("option 1: log-likelihood -27.88</li>") == 10
    assert page.count('option 2: log-likelihood -3.250 <span class="chip small">largest</span>') == 10
    assert page.count(">largest<") == page.count(">greedy<") == 10
    assert "(counted from 0: option 2)" in page
    assert json.dumps(_PAIRS[0])[:10].replace('"', "&#34;") not in page


@pytest.mark.parametrize(("task", "told"), [("arc_challenge", 0), ("ai2d", 10), ("my_task", 0)])
def test_pictures_are_missed_only_where_a_task_has_some(
    run_id: str, visitor: FlaskClient, task: str, told: int
) -> None:
    page = main_part(visitor, f"{run_id}/samples/{task}")
    assert page.count("No picture is stored") == page.count('class="pictures"') == told
    assert page.count("text-only") == 10 - told


def test_a_warning_of_several_tasks_is_one_box_that_names_them(run_id: str, visitor: FlaskClient) -> None:
    warnings = main_part(visitor, run_id).partition('id="warnings"')[2].partition("</section>")[0]
    assert warnings.count("<strong>Samples missing</strong>") == 1
    box = warnings.partition("<strong>Samples missing</strong>")[2].partition("</details>")[0]
    assert "2 of 5 tasks" in box
    assert [box.count(f"<li><p>{task}") for task in (*_TASKS, *_BARE)] == [0, 0, 0, 1, 1]
    assert box.count("There are no samples") == 1
