"""The digits tasks and the adapter inside the real lmms-eval: they load, score and slice, and read only pixels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lmms_digits import GROUP, TASKS, answers, dataset, readers
from lmms_digits.pixels import draw, read
from lmms_digits.tasks import scoring
from lmms_digits.train import train

# lmms-eval and what it imports warn a lot; none of that is ours to mend.
pytestmark = [pytest.mark.lmms_eval, pytest.mark.filterwarnings("ignore")]

FILTERED = "digits_vqa_filters"
LIMIT = 24

Row = dict[str, Any]
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact folder of the weakest reader: with it, few documents suffice to see wrong answers."""
    return Path(train(tmp_path_factory.mktemp("digits-models"))["nearest-centroid"])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(dataset.prepare_dataset(tmp_path_factory.mktemp("digits-tasks")))


@pytest.fixture(scope="session")
def evaluate(model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluate]:
    """Run lmms-eval's own `simple_evaluate` with the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.tasks import TaskManager

        def run(tasks: list[str], tasks_in: Path = folder, **options: Any) -> dict[str, Any]:
            manager = TaskManager(include_path=str(tasks_in), include_defaults=False, model_name="digits")
            settings: dict[str, Any] = {"limit": LIMIT, "bootstrap_iters": 0, **options}
            return dict(simple_evaluate("digits", f"path={model}", tasks=tasks, task_manager=manager, **settings))

        yield run


@pytest.fixture(scope="session")
def results(evaluate: Evaluate) -> dict[str, Any]:
    return evaluate([GROUP, FILTERED])


def _said(results: dict[str, Any], task: str) -> list[str]:
    return [sample["resps"][0][0] for sample in results["samples"][task]]


def test_the_group_runs_its_four_tasks(results: dict[str, Any]) -> None:
    assert sorted(results["group_subtasks"][GROUP]) == sorted(TASKS)
    assert {task: len(results["samples"][task]) for task in TASKS} == dict.fromkeys(TASKS, LIMIT)


@pytest.mark.parametrize(
    ("task", "rows", "pictures"),
    [
        ("digits_vqa", dataset.digit_rows, scoring.picture),
        ("digits_sum", dataset.sum_rows, scoring.pair),
        ("digits_robust", dataset.robust_rows, scoring.spoiled_picture),
    ],
)
def test_words_and_scores_are_those_of_the_model_itself(
    results: dict[str, Any], model: Path, task: str, rows: Callable[[str], list[Row]], pictures: Callable[[Row], Any]
) -> None:
    reader = readers.load(model)
    documents = rows("test")[:LIMIT]
    prompt = "Which sum?" if task == "digits_sum" else "Which digit?"
    said = [answers.answer(prompt, [reader.probabilities(read(p)) for p in pictures(row)]) for row in documents]
    right = [word == row["answer"] for word, row in zip(said, documents, strict=True)]
    assert _said(results, task) == said
    assert [sample["exact_match"] for sample in results["samples"][task]] == right
    assert results["results"][task]["exact_match,none"] == np.mean(right)
    assert 0 < np.mean(right) < 1


def test_parity_is_decided_by_summed_probabilities(results: dict[str, Any], model: Path) -> None:
    reader = readers.load(model)
    documents = dataset.digit_rows("test")[:LIMIT]
    odd = [reader.probabilities(read(row["image"]))[1::2].sum() > 0.5 for row in documents]
    right = [said_odd == (row["parity"] == "odd") for said_odd, row in zip(odd, documents, strict=True)]
    assert [sample["acc"] for sample in results["samples"]["digits_parity"]] == right
    assert results["results"]["digits_parity"]["acc,none"] == np.mean(right)


def test_filters_judge_the_same_words_differently(results: dict[str, Any]) -> None:
    scores = results["results"][FILTERED]
    assert scores["exact_match,strict-match"] < scores["exact_match,flexible-extract"]
    assert scores["exact_match,flexible-extract"] == results["results"]["digits_vqa"]["exact_match,none"]


@pytest.mark.parametrize(
    ("task", "dimensions"),
    [
        ("digits_vqa", {"digit", "ink"}),
        ("digits_parity", {"digit", "ink"}),
        ("digits_sum", {"left_digit", "right_digit", "carry", "parities"}),
        ("digits_robust", {"digit", "ink", "perturbation", "severity"}),
    ],
)
def test_documents_carry_their_slices(results: dict[str, Any], task: str, dimensions: set[str]) -> None:
    documents = [sample["doc"] for sample in results["samples"][task]]
    for dimension in dimensions:
        assert len({doc[dimension] for doc in documents}) > 1


@pytest.mark.parametrize("task", TASKS)
def test_worked_examples_come_from_the_training_split(evaluate: Evaluate, task: str) -> None:
    plain, shown = (evaluate([task], limit=4, num_fewshot=shots) for shots in (0, 2))
    prompts = [sample["arguments"][0] for sample in shown["samples"][task]]
    question = plain["samples"][task][0]["arguments"][0]
    assert all(prompt.count(question) == 3 and prompt.endswith(question) for prompt in prompts)
    assert _said(shown, task) == _said(plain, task), "these models cannot learn from examples, nor be misled by them"


def test_cached_answers_score_the_same(evaluate: Evaluate, results: dict[str, Any], tmp_path: Path) -> None:
    for _ in range(2):
        again = evaluate(["digits_parity"], use_cache=str(tmp_path))
        assert again["results"]["digits_parity"]["acc,none"] == results["results"]["digits_parity"]["acc,none"]


def test_temperature_samples_by_the_seed(evaluate: Evaluate, results: dict[str, Any]) -> None:
    def said(seed: int) -> list[str]:
        options = {"gen_kwargs": "temperature=3,do_sample=True", "numpy_random_seed": seed}
        return _said(evaluate(["digits_vqa"], **options), "digits_vqa")

    assert said(1) == said(1) != said(2)
    assert said(1) != _said(results, "digits_vqa")


def _altered(folder: Path, target: Path, alter: Callable[[Row], Row]) -> Path:
    shutil.copytree(folder, target)
    rows = [alter(row) for row in dataset.digit_rows("test")]
    dataset.write(rows, target / "data" / "digits-test.parquet")
    return target


def _relabelled(row: Row) -> Row:
    wrong = (row["digit"] + 1) % 10
    return {**row, "answer": str(wrong), "digit": wrong, "parity": "odd", "source": 9999 - row["source"]}


def _permuted(row: Row) -> Row:
    order = np.random.default_rng(5).permutation(64)
    return {**row, "image": draw(read(row["image"])[order].reshape(8, 8) * 16)}


def test_answers_follow_the_pixels_and_not_the_labels(
    evaluate: Evaluate, results: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    tasks = ["digits_vqa", "digits_parity"]
    relabelled = evaluate(tasks, tasks_in=_altered(folder, tmp_path / "relabelled", _relabelled))
    permuted = evaluate(tasks, tasks_in=_altered(folder, tmp_path / "permuted", _permuted))
    for task in tasks:
        assert _said(relabelled, task) == _said(results, task) != _said(permuted, task)
    assert relabelled["results"]["digits_vqa"]["exact_match,none"] < 0.2
