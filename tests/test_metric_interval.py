"""The interval of a metric or slice from its moments, against the same intervals from all scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlflow_lmms.analysis.mean_interval import mean_interval
from mlflow_lmms.metric_interval import metric_interval, slice_interval
from mlflow_lmms.task_result import MetricResult, Scale, SliceResult

BINARY = np.array([1.0] * 30 + [0.0] * 10)
GRADED = np.linspace(0.2, 0.9, 25)


def metric(scores: Any, factor: float | None = 1.0, **changes: Any) -> MetricResult:
    """A metric as the runner tells it."""
    fields = {
        "metric": "m",
        "filter": "none",
        "value": float(scores.mean()) * (factor or 1.0),
        "factor": factor,
        "binary": set(scores) <= {0.0, 1.0},
        "n": len(scores),
        "mean": float(scores.mean()),
        "sd": float(scores.std(ddof=1)),
    }
    return MetricResult.model_validate({**fields, **changes})


@pytest.mark.parametrize("scores", [BINARY, GRADED], ids=["binary", "graded"])
@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_moments_give_the_interval_of_the_scores(scores: Any, factor: float) -> None:
    expected = mean_interval(scores)
    found = metric_interval(metric(scores, factor))
    assert found is not None
    assert expected is not None
    assert (found.low, found.high) == pytest.approx((expected.low * factor, expected.high * factor))
    assert found.method == expected.method


def test_none_right_and_all_right_end_at_the_scales_ends() -> None:
    none, every = metric_interval(metric(np.zeros(125))), metric_interval(metric(np.ones(125)))
    assert none is not None and every is not None
    assert none.low == 0.0 < none.high
    assert every.low < 1.0 == every.high


def test_scores_that_are_all_equal_leave_room_for_what_so_many_did_not_show() -> None:
    every = metric(np.full(36, 100.0), scale={"high": 100.0})
    found = metric_interval(every)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((100 * stats.beta.ppf(0.025, 36, 1), 100.0)), (
        "as of 36 right of 36"
    )
    middle = metric_interval(metric(np.full(36, 0.5), 100.0, scale={"high": 100.0}))
    assert middle is not None and middle.low < 50.0 < middle.high
    assert metric_interval(every.model_copy(update={"scale": Scale()})) is None, "nothing bounds what was not seen"


def test_clusters_cost_degrees_of_freedom() -> None:
    found = metric_interval(metric(BINARY, 100.0, clusters=5, clustered_stderr=0.1))
    assert found is not None
    half = stats.t.ppf(0.975, 4) * 0.1
    assert (found.low, found.high) == pytest.approx((100 * (0.75 - half), 100 * (0.75 + half)))
    assert "clustered" in found.method


def test_one_cluster_has_no_interval() -> None:
    assert metric_interval(metric(BINARY, clusters=1)) is None


def test_a_corpus_metric_has_the_runners_interval_or_none() -> None:
    corpus = metric(GRADED, None, level="corpus", value=41.5)
    assert metric_interval(corpus) is None
    told = corpus.model_copy(update={"low": 39.0, "high": 44.0, "method": "bootstrap"})
    found = metric_interval(told)
    assert found is not None
    assert (found.low, found.high, found.method) == (39.0, 44.0, "bootstrap")


@pytest.mark.parametrize("changes", [{"value": None}, {"n": 1}, {"sd": None}])
def test_without_what_a_method_needs_there_is_no_interval(changes: dict[str, Any]) -> None:
    assert metric_interval(metric(GRADED, **changes)) is None


def test_an_earlier_runs_interval_comes_from_its_standard_error() -> None:
    expected = mean_interval(GRADED)
    old = {"metric": "m", "filter": "none", "value": float(GRADED.mean()), "n": 25, "per_sample": True}
    found = metric_interval(MetricResult.model_validate({**old, "stderr": float(stats.sem(GRADED))}))
    assert found is not None
    assert expected is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert metric_interval(MetricResult.model_validate({**old, "per_sample": False})) is None


def test_slices() -> None:
    about: dict[str, Any] = {"dimension": "d", "value": "v", "metric": "m", "filter": "none", "n": len(BINARY)}
    expected = mean_interval(BINARY)
    found = slice_interval(SliceResult(**about, score=75.0), metric(BINARY, 100.0))
    assert found is not None
    assert expected is not None
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert slice_interval(SliceResult(**about, score=0.5), metric(GRADED)) is None
    told = slice_interval(SliceResult(**about, score=12.0, low=11.0, high=14.0), metric(GRADED, None))
    assert told is not None
    assert (told.low, told.high, told.method) == (11.0, 14.0, "bootstrap")
