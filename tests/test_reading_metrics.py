"""Which entries of a results file are metrics, which one stands for the task, on what scale and in what direction."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from mlflow_lmms.catalogue import read_catalogue
from mlflow_lmms.reading.metric_key import MetricKey, finite_number, metric_key, reported_metrics
from mlflow_lmms.reading.primary_metric import choose_primary
from mlflow_lmms.reading.row_key import row_key
from mlflow_lmms.reading.scale import direction, metric_scale
from mlflow_lmms.reading.score_sums import ScoreSums


def test_metrics_of_an_entry() -> None:
    entry: dict[str, Any] = {
        "alias": " - bench",
        " ": " ",
        "samples": 12,
        "acc,none": 0.5,
        "acc_stderr,none": 0.01,
        "acc_stderr_clt,none": 0.02,
        "acc_stderr_clustered,none": "N/A",
        "acc_expected_accuracy,none": 0.4,
        "science & technology,none": 3,
        "exact_match,flexible-extract": 1.0,
        "exact_match_stderr,flexible-extract": "N/A",
        "paired_ci_lower,none": 3.0,
        "paired_baseline_score": 50.0,
        "lonely_stderr,none": 0.1,
    }
    metrics = reported_metrics(entry)
    assert [key.text for key in metrics] == [
        "acc,none",
        "science & technology,none",
        "exact_match,flexible-extract",
        "lonely_stderr,none",
    ]
    assert metrics[MetricKey("acc", "none")].stderr == 0.01
    assert metrics[MetricKey("exact_match", "flexible-extract")].stderr is None


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (None, "null"),
        ([], "a list of 0"),
        ({"overall": 0.5, "topic": 0.1}, "a dict of 2"),
        ("N/A", "text"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        (10**400, "not finite"),
    ],
)
def test_what_is_no_number_says_so(value: Any, note: str) -> None:
    (metric,) = reported_metrics({"m,none": value}).values()
    assert metric.value is None
    assert metric.note == note


def test_numbers() -> None:
    assert finite_number(np.float32(0.5)) == 0.5
    assert finite_number(np.array([1.0])) is None
    assert finite_number(True) == 1.0
    assert finite_number("1") is None
    assert metric_key("a,b,none") == MetricKey("a,b", "none")
    assert metric_key(",none") is None


@pytest.mark.parametrize(
    ("task", "metrics", "chosen", "reason"),
    [
        ("t", ["submission", "acc"], "acc", "only"),
        ("t", ["color_acc", "overall_score", "acc"], "overall_score", "overall"),
        ("t", ["recall", "exact_match", "acc"], "exact_match", "standard"),
        ("t", ["recall", "vqa_acc"], "vqa_acc", "standard"),
        ("t", ["acc_format_score", "acc_score"], "acc_score", "only"),
        ("docvqa", ["loss", "docvqa"], "docvqa", "named after"),
        ("bench", ["fine", "coarse"], "fine", "first"),
        ("mme", ["mme_cognition_score", "mme_perception_score"], "mme_perception_score", "known"),
        ("hallusion_bench_image", ["qAcc", "fAcc", "aAcc"], "aAcc", "known"),
        ("timelens_charades", ["timelens_IOU@3", "timelens_mIOU"], "timelens_mIOU", "known"),
        ("timelens_charades@video", ["timelens_IOU@3", "timelens_mIOU"], "timelens_mIOU", "known"),
        ("ocrbench_v2", ["ocrbench_v2_accuracy", "ocrbench_v2_accuracy_en"], "ocrbench_v2_accuracy", "standard"),
        ("t", ["submission", "extracted_answers"], None, ""),
        ("t", ["failure rate"], None, ""),  # of a task whose accuracy has no number
        ("bench", ["meanest", "ballast"], "meanest", "first"),  # `mean` and `all` only as words
    ],
)
def test_primary_metric(task: str, metrics: list[str], chosen: str | None, reason: str) -> None:
    primary = choose_primary(task, [MetricKey(metric, "none") for metric in metrics])
    assert (primary.key.metric if primary else None) == chosen
    assert primary is None or reason in primary.reason


@pytest.mark.lmms_eval
def test_every_task_of_lmms_eval_has_a_primary_with_a_direction_or_only_submissions() -> None:
    tasks = read_catalogue([]).tasks
    assert len(tasks) > 1700
    for name, task in tasks.items():
        primary = choose_primary(name, [MetricKey(metric.name, "none") for metric in task.metrics])
        if primary is None:
            assert all(re.search("submission|generated", metric.name) for metric in task.metrics), name
            continue
        assert "first" not in primary.reason, (name, primary)
        declared = next(own.higher_is_better for own in task.metrics if own.name == primary.key.metric)
        assert direction(primary.key.metric, declared)[0] is not None, (name, primary)


@pytest.mark.parametrize(
    ("wanted", "metric", "filter_name", "reason"),
    [
        (None, "exact_match", "flexible-extract", "only"),
        ("exact_match:strict-match", "exact_match", "strict-match", "user"),
        ("exact_match", "exact_match", "flexible-extract", "user"),
        ("submission", "submission", "none", "user"),
        ("with:colon", "with:colon", "none", "user"),
        ("with:colon:none", "with:colon", "none", "user"),
        ("nowhere", "exact_match", "flexible-extract", "only"),
    ],
)
def test_user_and_filter(wanted: str | None, metric: str, filter_name: str, reason: str) -> None:
    names = ("strict-match", "flexible-extract", "other")
    keys = [MetricKey("exact_match", name) for name in names]
    keys += [MetricKey("submission", "none")]
    keys += [MetricKey("with:colon", "none")] if wanted and "colon" in wanted else []
    primary = choose_primary("t", keys, wanted)
    assert primary is not None
    assert primary.key == (metric, filter_name)
    assert reason in primary.reason


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (["none"], "the only score"),
        (["strict-match", "flexible-extract"], "the only score; of its 2 filters flexible-extract is preferred"),
        (["mine", "yours"], "the only score; of its 2 filters mine is the first listed"),
    ],
)
def test_a_choice_among_filters_is_said(filters: list[str], reason: str) -> None:
    primary = choose_primary("t", [MetricKey("acc", name) for name in filters])
    assert primary is not None
    assert primary.reason == reason


@pytest.mark.parametrize(
    ("metric", "value", "scores", "factor", "times_100", "aggregation", "high", "reason"),
    [
        ("mme_perception_score", 1500.0, [], None, None, None, 2000.0, "known"),
        ("wer", 5.1, [], None, None, None, 100.0, "may pass 100"),
        ("wer", 0.05, [0.1, 0.0], 1.0, None, None, 1.0, "between 0 and 1"),
        ("accuracy", 68.0, [], None, None, None, None, "no per-sample scores"),
        ("accuracy", 0.574, [], None, None, None, None, "no per-sample scores"),
        ("accuracy", 68.0, [], None, True, None, 100.0, "multiplies by 100"),
        ("accuracy", 67.5, [0.675], 100.0, None, None, 100.0, "100 × the mean"),
        ("accuracy", 50.0, [100.0, 0.0], 1.0, None, None, 100.0, "0 or 100"),
        ("accuracy", 0.5, [1.0, 0.0], 1.0, None, None, 1.0, "between 0 and 1"),
        ("gpt_score", 2.5, [1.0, 4.0], 1.0, None, None, None, "range from 1 to 4"),
        ("gpt_score", 0.0, [0.0, 0.0], 1.0, None, None, None, "fits every scale"),
        ("exact_match", 0.0, [0.0, 0.0], 1.0, None, "mean", 1.0, "own exact_match"),
        ("acc", 0.06, [], None, None, "mean", 1.0, "own acc"),
        ("acc", 6.0, [], None, None, "mean", None, "unknown"),
        ("f1", 0.3, [1.0, 0.0], None, None, None, None, "does not follow"),
        ("f1", None, [1.0, 0.0], None, None, None, None, "no value"),
    ],
)
def test_scale(
    metric: str,
    value: float | None,
    scores: list[float],
    factor: float | None,
    times_100: bool | None,
    aggregation: str | None,
    high: float | None,
    reason: str,
) -> None:
    scale = metric_scale("t", metric, value, factor, times_100, sums=ScoreSums.of(scores), aggregation=aggregation)
    assert scale.high == high
    assert reason in scale.reason


@pytest.mark.parametrize(
    ("metric", "declared", "better", "reason"),
    [
        ("acc", True, True, "says so"),
        ("mae_norm", False, False, "says so"),
        ("pope_yes_ratio", True, None, "neither"),
        ("asr_wer", True, False, "although"),
        ("wer", None, False, "by its name"),
        ("acc_norm", None, True, "by its name"),
        ("swerve", None, None, "does not say"),
    ],
)
def test_direction(metric: str, declared: bool | None, better: bool | None, reason: str) -> None:
    found, why = direction(metric, declared)
    assert found is better
    assert reason in why


def test_row_key() -> None:
    assert row_key(0, "Where is the café?", "Paris") == (
        "9b1c41dfd47cc627abc7708d508ee4216b7964d50bae2c147e494920ec93dc03"
    )
    assert row_key(0, "a", "b") != row_key("0", "a", "b")
    assert row_key(1, "\ud800", "b") == row_key(1, "\ud800", "b")
