"""Work in a forked child: what it tells, and that neither its failure nor its hanging reaches this process."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_lmms.reading.metric_key import MetricKey
from worker.runner.corpus_scores import CorpusMetric, corpus_scores, time_for_corpus_scores
from worker.runner.forked_child import Tell, in_child
from worker.runner.task_code import (
    aggregation_may_call_judge,
    may_call_judge,
    may_write_files,
    multiplies_by_100,
    scoring_may_call_judge,
)

KEY = MetricKey("rate", "none")


def test_what_the_child_tells_arrives_in_order() -> None:
    def work(tell: Tell) -> None:
        for number in range(20_000):
            tell([number, "ü" * (number % 7), None])

    report = in_child(work, 30)
    assert report.failure is None
    assert [value[0] for value in report.told] == list(range(20_000))


def test_the_childs_exception_is_told_with_what_came_before() -> None:
    def work(tell: Tell) -> None:
        tell(1)
        raise ValueError("no such thing")

    report = in_child(work, 30)
    assert (report.told, report.failure) == ([1], "ValueError: no such thing")


@pytest.mark.parametrize(
    "end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: sys.exit(1)]
)
def test_a_child_that_ends_early_is_noticed(end: Any) -> None:
    report = in_child(lambda _tell: end(), 30)
    assert report.failure is not None


def test_a_hanging_child_is_killed_at_the_deadline() -> None:
    children: list[int] = []

    def work(tell: Tell) -> None:
        tell(os.getpid())
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(1)

    started = time.monotonic()
    report = in_child(work, 0.5)
    assert time.monotonic() - started < 10
    children = report.told
    assert "not done within" in str(report.failure)
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


def test_a_child_that_cannot_be_started_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", refuse)
    report = in_child(lambda tell: tell(1), 5)
    assert report.told == []
    assert "Cannot allocate memory" in str(report.failure)


def test_a_child_that_leaves_a_process_behind_does_not_hold_its_parent() -> None:
    def work(tell: Tell) -> None:
        if os.fork() == 0:
            signal.alarm(20)
            signal.pause()
        tell("done")

    started = time.monotonic()
    assert in_child(work, 15).told == ["done"]
    assert time.monotonic() - started < 10


def test_the_child_prints_nothing_and_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    values = [1]

    def work(tell: Tell) -> None:
        print("loud")  # noqa: T201
        subprocess.run(["echo", "louder"], check=True)
        values.append(2)
        tell(values)

    assert in_child(work, 30).told == [[1, 2]]
    assert values == [1]
    assert capfd.readouterr().out == ""


def _task(aggregation: Any) -> Any:
    return SimpleNamespace(aggregation=lambda: {"rate": aggregation})


def _metric(values: list[Any], value: float, **fields: Any) -> CorpusMetric:
    return CorpusMetric(KEY, values, value, fields.pop("dropped", [False] * len(values)), **fields)


def _largest_share(values: list[float]) -> float:
    return max(values) / sum(values)


VALUES = [float(1 + number % 9) for number in range(90)]
COLUMNS = {"parity": ["odd" if number % 2 else "even" for number in range(89)] + [None]}


def test_an_aggregation_is_called_on_the_parts() -> None:
    found = corpus_scores(_task(_largest_share), None, _metric(VALUES, 9 / sum(VALUES), columns=COLUMNS), 20)
    assert found.note is None
    assert found.whole.low is not None
    assert found.whole.high is not None
    assert found.whole.low < 9 / sum(VALUES) < found.whole.high
    even = [value for value, name in zip(VALUES, COLUMNS["parity"], strict=True) if name == "even"]
    assert found.slices["parity", "even"].value == _largest_share(even)
    assert found.slices["parity", "even"].n == len(even)
    assert set(found.slices) == {("parity", "even"), ("parity", "odd")}


def test_a_document_without_a_value_is_left_out_and_a_dropped_one_only_of_the_parts() -> None:
    values = [None, *VALUES]
    dropped = [False, True, *[False] * 89]
    found = corpus_scores(_task(sum), None, _metric(values, sum(VALUES), dropped=dropped), 20)
    assert (found.whole.n, found.whole.value) == (89, sum(VALUES[1:]))


def test_clusters_are_drawn_whole() -> None:
    """Documents of one cluster are equal, so that drawing clusters gives an interval of three times the width."""
    values = [float(number // 9 % 2) for number in range(90)]

    def share(own: list[float]) -> float:
        return sum(own) / len(own)

    alone = corpus_scores(_task(share), None, _metric(values, 0.5), 20).whole
    together = corpus_scores(
        _task(share), None, _metric(values, 0.5, clusters=[number // 9 for number in range(90)]), 20
    ).whole
    assert alone.low and alone.high and together.low and together.high
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(3, rel=0.2)


def _changing(values: list[dict[str, float]]) -> float:
    return sum(value.pop("x", 0.0) for value in values)


@pytest.mark.parametrize(
    ("aggregation", "values", "value", "words"),
    [
        (sum, VALUES, 7.0, "gave 450.0 for the samples that it gave 7.0 for"),
        (_changing, [{"x": 1.0}, {"x": 2.0}], 3.0, "not looked into"),
        (lambda _: "text", VALUES, 1.0, "not looked into"),
        (lambda _: [][1], VALUES, 1.0, "not looked into"),
        (lambda _: time.sleep(60), VALUES, 1.0, "could not be called again"),
        (None, VALUES, 1.0, "names no aggregation"),
    ],
)
def test_an_aggregation_that_cannot_be_trusted_is_not_used(
    aggregation: Any, values: list[Any], value: float, words: str
) -> None:
    found = corpus_scores(_task(aggregation), None, _metric(values, value, columns={"c": ["a", "b"] * 45}), 1.5)
    assert found.refused
    assert found.slices == {}
    assert (found.whole.value, found.whole.low) == (value, None)
    assert words in str(found.note)


@pytest.mark.parametrize("error", [ValueError, AssertionError, KeyError, SystemExit])
def test_an_aggregation_that_is_undefined_on_many_draws_has_no_interval(error: type[BaseException]) -> None:
    def needs_the_first(values: list[float]) -> float:
        if 100.0 not in values:
            raise error
        return 100.0

    found = corpus_scores(_task(needs_the_first), None, _metric([100.0, *VALUES], 100.0), 20)
    assert found.whole.low is None
    assert "undefined" in str(found.note)


def test_a_slow_aggregation_is_stopped_in_time() -> None:
    def slow(values: list[float]) -> float:
        time.sleep(0.05)
        return sum(values)

    started = time.monotonic()
    found = corpus_scores(_task(slow), None, _metric(VALUES, sum(VALUES), columns=COLUMNS), 2)
    assert time.monotonic() - started < 4
    assert found.whole.low is None
    assert "took too long" in str(found.note)
    assert found.slices["parity", "odd"].value is not None


def test_the_time_for_it_follows_the_tasks() -> None:
    assert [time_for_corpus_scores(seconds) for seconds in (1, 600, 10**6)] == [10, 30, 60]


def _helper(path: str) -> None:
    open(path, "w").close()  # noqa: PTH123


def _writes_by_a_helper(values: list[float]) -> float:
    _helper("x")
    return 100 * sum(values)


class _Client:
    """Stands for a client of a service that scores."""

    __module__ = "openai"

    def score(self, values: list[float]) -> float:
        """Never called."""
        return float(len(values))


_server = _Client()


def _asks(values: list[float]) -> float:
    return max(map(lambda value: _server.score([value]), values))  # noqa: C417


def _asks_nobody(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    judge_dict = {"right": float(results[0] == doc["answer"])}
    return judge_dict


class _Scoring:
    """A task as far as its scoring goes."""

    def __init__(self, scoring: Any, aggregation: Any) -> None:
        self.config = SimpleNamespace(process_results=scoring)
        self.aggregation = lambda: {"m": aggregation}


def test_what_a_function_may_do_is_told_from_all_that_it_reaches() -> None:
    assert may_write_files(_writes_by_a_helper)
    assert may_write_files(functools.partial(_writes_by_a_helper))
    assert multiplies_by_100(_writes_by_a_helper)
    assert aggregation_may_call_judge(_asks)
    assert not may_write_files(_largest_share)
    assert not multiplies_by_100(_largest_share)
    assert not aggregation_may_call_judge(_largest_share)


def test_a_judge_may_sit_in_scoring_or_aggregation() -> None:
    by_scoring, by_aggregation = _Scoring(_asks, _largest_share), _Scoring(_asks_nobody, _asks)
    assert scoring_may_call_judge(by_scoring)
    assert may_call_judge(by_scoring)
    assert not scoring_may_call_judge(by_aggregation)
    assert may_call_judge(by_aggregation)
    assert not may_call_judge(_Scoring(_asks_nobody, _largest_share))


@pytest.mark.parametrize(
    ("module", "function", "judge"),
    [
        ("mmmu", "mmmu_process_results", False),
        ("mmmu", "mmmu_aggregate_results", False),
        ("mmmu", "mmmu_reasoning_process_results", True),
        ("mme", "mme_process_results", False),
        ("chartqa", "chartqa_process_results", False),
    ],
)
def test_lmms_evals_own_functions(module: str, function: str, judge: bool) -> None:
    found = getattr(importlib.import_module(f"lmms_eval.tasks.{module}.utils"), function)
    assert aggregation_may_call_judge(found) == judge
