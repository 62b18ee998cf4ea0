"""The runner's pure rules: per-sample numbers, primary metric, slices, intervals, chunks, file names, failures."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from runner_process import REPOSITORY
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from mlflow_lmms import names
from mlflow_lmms.reading.primary_metric import MetricKey, choose_primary
from mlflow_lmms.reading.sample_scores import is_binary, sample_scores, scale_of
from mlflow_lmms.reading.slices import dimensions, length_groups, slice_scores
from worker.runner.chunk_plan import document_chunks, requests_per_chunk
from worker.runner.failures import TaskFailure, classify
from worker.runner.intervals import interval
from worker.runner.output_files import escape, write_atomically


@pytest.mark.parametrize(
    ("values", "aggregate", "expected"),
    [
        ([1, 0, True, 0.5, np.float32(0.25), np.int64(1)], None, [1, 0, 1, 0.5, 0.25, 1]),
        ([1.0, None, 0.0], 0.5, [1.0, None, 0.0]),
        ([float("nan"), 1.0], None, [None, 1.0]),
        ([{"score": 1, "id": 3}, {"score": 0, "id": 4}], 0.5, [1, 0]),
        ([{"score": 1}, {"score": 0}], 50.0, [1, 0]),
        ([{"score": 1}, {"score": 0}], 0.7, [None, None]),  # a corpus metric
        ([{"pred": "a", "answer": "a"}, {"pred": "b", "answer": "a"}], 0.5, [1, 0]),
        ([[True, False], [True, True]], 0.75, [0.5, 1]),
        (["text", ""], 0.5, [None, None]),
    ],
)
def test_sample_scores(values: list[Any], aggregate: float | None, expected: list[float | None]) -> None:
    assert sample_scores(values, aggregate) == expected


def test_scale_and_binary() -> None:
    assert scale_of([1, 0, None, 1], 2 / 3) == 1
    assert scale_of([1, 0, None, 1], 200 / 3) == 100
    assert scale_of([1, 0], 0.51) is None
    assert scale_of([], 0.5) is None
    assert is_binary([0.0, 1.0, None])
    assert not is_binary([0.0, 0.5])
    assert not is_binary([None])


@pytest.mark.parametrize(
    ("task", "metrics", "chosen", "reason"),
    [
        ("t", ["submission", "acc"], "acc", "only"),
        ("t", ["color_acc", "overall_score", "acc"], "overall_score", "overall"),
        ("t", ["recall", "exact_match", "acc"], "exact_match", "standard"),
        ("t", ["recall", "vqa_acc"], "vqa_acc", "standard"),
        ("docvqa", ["loss", "docvqa"], "docvqa", "named after"),
        ("bench", ["fine", "coarse"], "fine", "first"),
        ("mme", ["mme_cognition_score", "mme_perception_score"], "mme_perception_score", "known"),
        ("t", ["submission", "extracted_answers"], None, ""),
        ("bench", ["meanest", "ballast"], "meanest", "first"),  # `mean` and `all` only as words
    ],
)
def test_primary_metric(task: str, metrics: list[str], chosen: str | None, reason: str) -> None:
    primary = choose_primary(task, [MetricKey(metric, "none") for metric in metrics])
    assert (primary.key.metric if primary else None) == chosen
    assert primary is None or reason in primary.reason


def test_primary_filter() -> None:
    keys = [MetricKey("exact_match", name) for name in ("strict-match", "flexible-extract", "other")]
    primary = choose_primary("t", keys)
    assert primary is not None
    assert primary.key.filter == "flexible-extract"


def test_useful_dimensions() -> None:
    columns: dict[str, list[Any]] = {
        "category": ["a", "b"] * 20,
        "level": [1, 2, 3, 4] * 10,
        "id": list(range(40)),
        "constant": ["x"] * 40,
        "answer": ["yes", "no"] * 20,
        "pred": ["yes", "no"] * 20,
        "rare": ["a"] * 20 + [None] * 18 + ["b", "c"],
        "partly": ["a"] * 10 + ["b"] * 10 + [""] * 20,
    }
    kept = dimensions(columns)
    assert list(kept) == ["category", "level", "partly"]
    assert kept["partly"][-1] is None


def test_slice_scores() -> None:
    assert slice_scores(["a", "b", "a", None], [1.0, 0.0, None, 1.0]) == [
        {"value": "a", "n": 1, "score": 1.0, "sd": None},
        {"value": "b", "n": 1, "score": 0.0, "sd": None},
    ]


@given(st.lists(st.integers(0, 500), min_size=1))
def test_length_groups_are_ranges_that_hold_their_members(lengths: list[int]) -> None:
    groups = length_groups(lengths)
    for length, group in zip(lengths, groups, strict=True):
        if group is None:
            assert len(set(lengths)) == 1
        else:
            least, _, most = group.partition("–")
            assert int(least) <= length <= int(most or least)
    assert len(set(groups)) <= 4


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=200))
def test_interval_of_shares_is_wilsons(scores: list[float]) -> None:
    expected = proportion_confint(int(sum(scores)), len(scores), method="wilson")
    assert interval(scores) == pytest.approx(expected, abs=1e-12)
    scaled = interval([score * 100 for score in scores], 100.0)
    assert scaled == pytest.approx([bound * 100 for bound in expected], abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 30, 500])
def test_interval_of_numbers_is_students(count: int) -> None:
    scores = [math.sin(index) for index in range(count)]
    expected = stats.t.interval(0.95, count - 1, loc=np.mean(scores), scale=stats.sem(scores))
    bounds = interval(scores)
    assert bounds is not None
    assert bounds[1] - bounds[0] == pytest.approx(expected[1] - expected[0], rel=0.01)
    assert sum(bounds) == pytest.approx(sum(expected))


def test_no_interval_of_one_number() -> None:
    assert interval([0.5]) is None
    assert interval([]) is None


@given(st.integers(1, 5000), st.integers(1, 500), st.integers(1, 128))
def test_chunks_are_many_and_whole_batches(requests: int, largest: int, batch: int) -> None:
    size = requests_per_chunk(requests, largest, batch)
    assert size % batch == 0
    assert size <= max(largest, 8) + batch
    if requests >= 200 and batch == 1:
        assert math.ceil(requests / size) >= 19


@given(st.lists(st.integers(1, 6), max_size=30), st.integers(1, 20))
def test_chunks_never_split_a_document(requests_of: list[int], size: int) -> None:
    documents = [document for document, count in enumerate(requests_of) for _ in range(count)]
    chunks = [documents[chunk] for chunk in document_chunks(documents, size)]
    assert [document for chunk in chunks for document in chunk] == documents
    assert len({document for chunk in chunks for document in set(chunk)}) == sum(len(set(chunk)) for chunk in chunks)


@pytest.mark.parametrize("name", ["mmlu", "refcoco+_val", "a/b", "..", "a.x002B.", ".x", "ä b", "voice:bench", "🙂"])
def test_file_names_are_safe_and_reversible(name: str) -> None:
    escaped = escape(name)
    assert ("/" not in escaped and not escaped.startswith(".")) or escaped.startswith(".x")
    assert names.unescape(escaped) == name or ".x" in name


def test_failed_write_leaves_neither_file_nor_trace(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(target, write)
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    assert target.read_text() == "old"


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def _retried(error: Exception) -> BaseException:
    """What lmms-eval's retries make of an exception."""

    @tenacity.retry(stop=tenacity.stop_after_attempt(2))
    def fail() -> None:
        raise error

    try:
        fail()
    except tenacity.RetryError as caught:
        return caught
    raise AssertionError


class APIConnectionError(Exception):
    """As the judge's client library names it."""

    __module__ = "openai"


class ReadTimeout(Exception):
    """As HTTP libraries name it."""


@pytest.mark.parametrize(
    ("error", "phase", "failure", "words"),
    [
        (_raised(RuntimeError("CUDA out of memory. Tried to allocate")), "generate", "out_of_memory", "batch size"),
        (_raised(RuntimeError("CUDA error: out of memory")), "model_load", "out_of_memory", "batch size"),
        (_raised(MemoryError()), "score", "out_of_memory", "MemoryError"),
        (_raised(OSError("no config.json")), "model_load", "model_load", "no config.json"),
        (_raised(SystemExit(3)), "model_load", "model_load", "status 3"),
        (_retried(FileNotFoundError("lmms-lab/MME")), "dataset", "dataset", "lmms-lab/MME"),
        (_retried(KeyError("answer")), "score", "scoring", "KeyError"),
        (_raised(APIConnectionError("401")), "score", "judge", "key"),
        (_raised(ReadTimeout("60 s")), "generate", "timeout", "retry"),
        (_raised(ValueError("odd")), "generate", "unknown", "odd"),
        (_raised(TaskFailure("bad_request", "no task 'x'")), "dataset", "bad_request", "no task 'x'"),
    ],
)
def test_failures(error: BaseException, phase: str, failure: str, words: str) -> None:
    found = classify(error, phase)
    assert found.failure == failure
    assert words in found.message
    assert "Traceback" in found.traceback


def test_long_cause_is_cut() -> None:
    assert len(classify(_raised(ValueError("x" * 10_000)), "generate").message) < 1500


def test_runner_imports_only_what_an_evaluation_environment_has() -> None:
    required_by_lmms_eval = {"loguru", "numpy", "pyarrow", "PIL", "transformers"}
    allowed = {"lmms_eval"} | required_by_lmms_eval | sys.stdlib_module_names
    for file in (REPOSITORY / "worker" / "runner").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                ours = module.startswith(("worker.runner.", "mlflow_lmms.reading."))
                assert ours or module.partition(".")[0] in allowed, (file, module)
