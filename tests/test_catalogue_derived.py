"""What the catalogue derives: against 150 tasks that were labelled by reading them, and how much it covers."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlflow_lmms.catalogue import Catalogue, read_catalogue
from mlflow_lmms.catalogue.category_table import CATEGORIES, FOLDERS
from mlflow_lmms.catalogue.modality import MODALITIES
from mlflow_lmms.catalogue.task import DERIVED_FIELDS

LABELS = json.loads((Path(__file__).parent / "data" / "modality_labels.json").read_text(encoding="utf-8"))


def test_the_labelled_tasks_are_the_ones_that_the_seed_draws(catalogue: Catalogue) -> None:
    drawn = random.Random(LABELS["seed"]).sample(sorted(catalogue.tasks), 150)
    assert sorted(row["task"] for row in LABELS["labels"]) == sorted(drawn)
    assert all(row["reason"] and row["modality"] in (*MODALITIES, "unknown") for row in LABELS["labels"])


def test_the_modality_agrees_with_labels_made_by_reading(catalogue: Catalogue) -> None:
    wrong = [
        (row["task"], row["modality"], catalogue.tasks[row["task"]].modality)
        for row in LABELS["labels"]
        if row["modality"] != "unknown" and catalogue.tasks[row["task"]].modality.value != row["modality"]
    ]
    assert len(wrong) <= 0.03 * len(LABELS["labels"]), wrong


def test_nearly_every_task_has_a_modality_and_a_category(catalogue: Catalogue) -> None:
    tasks = catalogue.tasks.values()
    assert len(tasks) == 1713
    assert (len(catalogue.groups), len(catalogue.tags)) == (201, 71)
    assert sum(task.modality.value in MODALITIES for task in tasks) >= 0.99 * len(tasks)
    assert sum(task.category.value in CATEGORIES for task in tasks) >= 0.95 * len(tasks)
    assert set(FOLDERS.values()) <= set(CATEGORIES)


def test_every_derived_field_says_from_what(catalogue: Catalogue) -> None:
    assert all(
        derived.evidence and 0 <= derived.confidence <= 1
        for task in catalogue.tasks.values()
        for derived in task.derived().values()
    )


def test_the_tasks_of_nearly_every_folder_have_one_modality(catalogue: Catalogue) -> None:
    folders: dict[Path, Counter[Any]] = {}
    for task in catalogue.tasks.values():
        folders.setdefault(task.path.parent, Counter())[task.modality.value] += 1
    several = [folder.name for folder, counts in folders.items() if len(counts) > 1]
    assert len(several) <= 0.05 * len(folders), several


@pytest.mark.parametrize(
    ("task", "field", "value"),
    [
        ("mme", "modality", "image"),
        ("chartqa", "category", "charts"),
        ("mmlu_abstract_algebra", "modality", "text"),
        ("librispeech_test_clean", "category", "speech"),
        ("videomme", "modality", "video"),
        ("omni_bench", "modality", "mixed"),
        ("infovqa_test", "submission_only", True),
        ("infovqa_val", "submission_only", False),
        ("mme", "token", True),
        ("mmvet", "judge", "yes"),
        ("pope", "judge", "no"),
        ("mmlu_abstract_algebra", "remote_code", True),
        ("chartqa", "dimensions", ("type",)),
        ("gqa-ru", "languages", ("Russian",)),
        ("llava_in_the_wild_bengali", "languages", ("Bengali",)),
        ("pope", "languages", None),
    ],
)
def test_a_field_of_a_known_task(catalogue: Catalogue, task: str, field: str, value: object) -> None:
    assert getattr(catalogue.tasks[task], field).value == value


def test_metrics_have_direction_and_aggregation(catalogue: Catalogue) -> None:
    metrics = {metric.name: metric for metric in catalogue.tasks["librispeech_test_clean"].metrics}
    assert metrics["wer"].higher_is_better is False
    assert catalogue.tasks["mmlu_abstract_algebra"].metrics[0].name == "acc"
    assert all(task.metrics for task in catalogue.tasks.values() if task.output_type != "generate_visual_cot")


def test_what_is_known_to_fail_is_said_beforehand(catalogue: Catalogue) -> None:
    built_in = [task for task in catalogue.tasks.values() if any("built-in scoring" in said for said in task.trouble)]
    assert len(built_in) == 183
    assert all(task.output_type == "multiple_choice" for task in built_in)
    (said,) = catalogue.tasks["aime_2024_agg8"].trouble[:1]
    assert "process_docs_aime_2024" in said
    assert catalogue.tasks["mme"].trouble == ()


@pytest.mark.lmms_eval
def test_tasks_said_to_be_unloadable_are(catalogue: Catalogue, tmp_path: Path) -> None:
    """Lets lmms-eval load some of them: the function that is said to be missing is."""
    broken = [task for task in catalogue.tasks.values() if any("cannot be loaded" in said for said in task.trouble)]
    program = tmp_path / "load.py"
    program.write_text(
        """
import json, sys
from lmms_eval.utils import load_yaml_config

answers = {}
for path in json.load(sys.stdin):
    try:
        load_yaml_config(path, mode="full")
        answers[path] = "loaded"
    except Exception as error:
        answers[path] = f"{type(error).__name__}: {error}"
json.dump(answers, open(sys.argv[1], "w"))
""",
        encoding="utf-8",
    )
    answer = tmp_path / "answers.json"
    paths = json.dumps([str(task.path) for task in broken])
    subprocess.run([sys.executable, "-P", program, answer], input=paths.encode(), check=True, capture_output=True)
    answers = json.loads(answer.read_text())
    assert len(broken) >= 20
    assert {path: said for path, said in answers.items() if "has no attribute" not in said} == {}


def test_of_the_users_own_tasks_all_is_derived_too(tmp_path: Path) -> None:
    (tmp_path / "scoring.py").write_text(
        """
from helpers import ask_gpt4


def show(doc):
    return [doc["sound_audio"]]


def score(doc, results):
    return {"right": {"score": judge(doc), "category": doc["category"]}}


def judge(doc):
    return openai.chat(doc)


def write_submission(results):
    path = open("out.json", "w")
""",
        encoding="utf-8",
    )
    (tmp_path / "base").write_text(
        "dataset_path: json\ndataset_kwargs: {data_files: {test: d.jsonl}}\ndoc_to_visual: !function scoring.show\n",
        encoding="utf-8",
    )
    (tmp_path / "own.yaml").write_text(
        """
include: base
task: own_asr_zh
process_results: !function scoring.score
metric_list:
  - {metric: right, aggregation: !function scoring.write_submission}
metadata: {dimensions: [speaker]}
""",
        encoding="utf-8",
    )
    task = read_catalogue([tmp_path]).tasks["own_asr_zh"]
    assert {name: derived.value for name, derived in task.derived().items()} == {
        "modality": "audio",
        "category": "speech",
        "languages": ("Chinese",),
        "dimensions": ("speaker", "category"),
        "judge": "yes",
        "token": False,
        "download": False,
        "remote_code": False,
        "submission_only": True,
    }
    assert set(task.derived()) == set(DERIVED_FIELDS)
    (metric,) = task.metrics
    assert (metric.higher_is_better, metric.number) == (None, False)


def test_the_command_lists_them_in_less_work_than_lmms_eval_does() -> None:
    """Counted as the processes' own time, since a busy machine makes waiting longer, not the work."""

    def work(*command: str) -> tuple[float, str]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = subprocess.run([sys.executable, "-P", *command], check=True, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, answer.stdout

    ours, listed = work("-m", "mlflow_lmms.cli", "catalog", "--modality", "video")
    theirs, _ = work("-c", "from lmms_eval.tasks import TaskManager; print(len(TaskManager().all_tasks))")
    assert "of 1,713 tasks" in listed
    assert ours < theirs / 2, (ours, theirs)
