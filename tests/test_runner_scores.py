"""The runner's pure rules: intervals, chunks, file names, failures, and what it may import."""

from __future__ import annotations

import ast
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from runner_process import REPOSITORY
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from mlflow_lmms import names
from worker.runner.chunk_plan import ChunkPlan
from worker.runner.failures import TaskFailure, classify
from worker.runner.intervals import interval
from worker.runner.output_files import escape, write_atomically


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


@given(st.integers(1, 5000), st.integers(1, 500), st.integers(1, 128), st.floats(0, 100))
def test_chunks_are_a_small_share_and_whole_batches(requests: int, largest: int, batch: int, each_s: float) -> None:
    plan = ChunkPlan(range(requests), largest, batch)
    sizes = _sizes(plan, each_s)
    assert sum(sizes) == requests
    assert all(size % batch == 0 for size in sizes[:-1])
    assert max(sizes) <= max(batch, min(largest, requests // 20))
    assert all(size <= batch or size * each_s <= 60 for size in sizes)


def test_chunks_grow_and_shrink_with_the_models_speed() -> None:
    plan = ChunkPlan(range(10_000), 500, 8)
    sizes = []
    for each_s in (0.001, 2.0, 10.0, 0.001):
        chunk = plan.next()
        assert chunk is not None
        sizes.append(chunk.stop - chunk.start)
        plan.took(sizes[-1], sizes[-1] * each_s)
    assert sizes == [8, 496, 8, 8]


@given(st.lists(st.integers(1, 6), max_size=30), st.integers(1, 20))
def test_chunks_never_split_a_document(requests_of: list[int], size: int) -> None:
    documents = [document for document, count in enumerate(requests_of) for _ in range(count)]
    plan = ChunkPlan(documents, 100, size)
    ends = list(itertools.accumulate(_sizes(plan, 0.0)))
    chunks = [documents[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert [document for chunk in chunks for document in chunk] == documents
    assert len({document for chunk in chunks for document in set(chunk)}) == sum(len(set(chunk)) for chunk in chunks)


def _sizes(plan: ChunkPlan, each_s: float) -> list[int]:
    sizes = []
    while (chunk := plan.next()) is not None:
        sizes.append(chunk.stop - chunk.start)
        plan.took(sizes[-1], sizes[-1] * each_s)
    return sizes


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


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


def _raised_over(cause: BaseException, error: BaseException) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "phase", "failure", "words"),
    [
        (_raised(RuntimeError("CUDA out of memory. Tried to allocate")), "generate", "out_of_memory", "batch size"),
        (_raised(RuntimeError("CUDA error: out of memory")), "model_load", "out_of_memory", "batch size"),
        (_raised(MemoryError()), "score", "out_of_memory", "MemoryError"),
        (_raised(OutOfMemoryError("Tried to allocate 2 GiB")), "generate", "out_of_memory", "Tried to allocate"),
        (_raised_over(OutOfMemoryError(), RuntimeError("engine died")), "model_load", "out_of_memory", "engine died"),
        (_raised(ValueError("No available memory for the cache blocks.")), "model_load", "out_of_memory", "blocks"),
        (_raised(RuntimeError("Not enough memory. Please try to increase --mem")), "model_load", "out_of_memory", ""),
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
    required_by_lmms_eval = {
        "PIL",
        "accelerate",
        "datasets",
        "huggingface_hub",
        "loguru",
        "numpy",
        "pyarrow",
        "torch",
    }
    required_by_lmms_eval |= {"transformers"}
    allowed = {"lmms_eval"} | required_by_lmms_eval | sys.stdlib_module_names
    for file in (REPOSITORY / "worker" / "runner").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                ours = module.startswith(("worker.runner.", "mlflow_lmms.reading."))
                assert ours or module.partition(".")[0] in allowed, (file, module)
