"""The runner's reading of one task's metrics: levels, policies for errored samples, clusters, slices."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lmms_eval.api.metrics import clustered_stderr

from mlflow_lmms.reading.errored import ErroredPolicy
from mlflow_lmms.reading.metric_key import MetricKey
from worker.runner.document_records import DocumentRecord
from worker.runner.sample_rows import SampleRows
from worker.runner.slicing import cluster_ids, declared_dimensions, sample_slices, slicing
from worker.runner.task_metrics import Metric, Outcome, clustered, read_metrics, under_policy

KEY = MetricKey("acc", "none")
RIGHT = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]


def mean(values: list[Any]) -> float:
    """Stands for lmms-eval's own aggregation."""
    return float(sum(values) / len(values))


def outcome(values: list[Any], value: Any, *, better: bool | None = True, **config: Any) -> Outcome:
    """A task with one metric over so many documents."""
    count = len(values)
    task = SimpleNamespace(
        aggregation=lambda: {"acc": mean},
        higher_is_better=lambda: {"acc": better},
        config=SimpleNamespace(output_type="generate_until", **config),
    )
    rows = SampleRows(
        doc_ids=list(range(count)),
        inputs=["question"] * count,
        targets=["x"] * count,
        raw_targets=["x"] * count,
        responses=[["answer"]] * count,
        filtered={"none": ["answer"] * count},
        values={KEY: values},
    )
    return Outcome("t", task, {"acc,none": value, "acc_stderr,none": "N/A"}, rows, 1.0)


def metric(values: list[Any], value: Any, **fields: Any) -> Metric:
    return read_metrics(outcome(values, value, **fields))[KEY]


@pytest.mark.parametrize(
    ("values", "value", "level", "factor", "columns"),
    [
        (RIGHT, 0.6, "sample", 1.0, True),
        ([{"score": score} for score in RIGHT], 60.0, "sample", 100.0, True),
        ([{"pred": "a", "answer": "a" if score else "b"} for score in RIGHT], 0.6, "sample", 1.0, True),
        (RIGHT, 0.71, "corpus", None, True),
        ([{"tp": 1, "fp": 2}] * 10, 0.71, "corpus", None, False),
        ([{"id": 1}] * 10, None, "none", None, False),
        ([{"id": 1}] * 10, float("nan"), "none", None, False),
        ([{"id": 1}] * 10, {"a": 0.5}, "none", None, False),
    ],
)
def test_level_of_a_metric(values: list[Any], value: Any, level: str, factor: float | None, columns: bool) -> None:
    found = metric(values, value)
    assert (found.level, found.factor) == (level, factor)
    assert (found.kept_scores is not None) == columns
    document = found.document()
    assert document["per_sample"] == (factor is not None)
    assert document["native"] == document["value"] == (value if level != "none" else None)
    assert bool(document["note"]) == (level == "none")


def broken(*indices: int) -> list[str | None]:
    return ["blank answer" if number in indices else None for number in range(10)]


@pytest.mark.parametrize(
    ("policy", "value", "n"),
    [("as_scored", 60.0, 10), ("drop", 500 / 8, 8), ("wrong", 50.0, 10)],
)
def test_policies(policy: Any, value: float, n: int) -> None:
    """Of the two errored samples one was scored as right."""
    found = under_policy(metric(RIGHT, 60.0), ErroredPolicy(policy), broken(0, 2))
    assert found.value == pytest.approx(value)
    assert (found.n, found.errored) == (n, 2)
    counted = [score for score in found.counted if score is not None]
    assert len(counted) == n
    assert 100 * mean(counted) == pytest.approx(value)
    assert found.reported.value == 60.0


def test_wrong_is_not_told_of_documents_that_a_metric_is_not_about() -> None:
    values = [None, None, *RIGHT[2:]]
    found = under_policy(metric(values, 0.5), ErroredPolicy("wrong"), broken(0, 3))
    assert found.value == pytest.approx(3 / 8)
    assert found.n == 8
    assert found.counted[0] is None
    assert found.document()["missing"] == 2


def test_wrong_needs_to_know_what_is_worse() -> None:
    found = under_policy(metric(RIGHT, 0.6, better=False), ErroredPolicy("wrong"), broken(0))
    assert found.value == 0.6
    assert "worst" in str(found.note)


CLUSTERS = ["a", "a", "b", "b", "b", "c", "c", "d", "d", "d"]


def test_clustered_error_is_lmms_evals_but_for_its_correction() -> None:
    found = clustered(metric(RIGHT, 60.0), CLUSTERS)
    assert (found.clusters, found.document()["clusters"]) == (4, 4)
    ours = (found.clustered_stderr or 0.0) ** 2 * 3 / 4
    # lmms-eval divides the squares' own part by n − 1, the cross terms by n.
    own = float(np.var(RIGHT, ddof=1)) / 10 - float(np.var(RIGHT)) / 10
    assert ours == pytest.approx(clustered_stderr(RIGHT, CLUSTERS) ** 2 - own)


def test_documents_without_a_cluster_are_their_own() -> None:
    found = clustered(metric(RIGHT, 0.6), [None] * 10)
    assert found.clusters == 10
    assert found.clustered_stderr == pytest.approx(float(np.std(RIGHT, ddof=1)) / math.sqrt(10))
    assert clustered(metric(RIGHT, 0.6), ["a"] * 10).clustered_stderr is None
    corpus = metric(RIGHT, 0.71)
    assert clustered(corpus, CLUSTERS) is corpus


def records(**columns: list[Any]) -> dict[int, DocumentRecord]:
    return {
        number: DocumentRecord("0" * 64, {name: own[number] for name, own in columns.items()}, 1, [])
        for number in range(10)
    }


def test_clusters_come_from_the_scoring_or_the_document() -> None:
    scored = [{"score": score, "video": f"v{number % 2}"} for number, score in enumerate(RIGHT)]
    done = outcome(scored, 0.6, cluster_key="video")
    assert cluster_ids(done, records(), read_metrics(done)[KEY]) == ["v0", "v1"] * 5
    plain = outcome(RIGHT, 0.6, cluster_key="video")
    best = read_metrics(plain)[KEY]
    assert cluster_ids(plain, records(video=CLUSTERS), best) == CLUSTERS
    assert cluster_ids(plain, records(), best) is None
    assert cluster_ids(outcome(RIGHT, 0.6), records(video=CLUSTERS), best) is None


def test_slices_come_from_every_source_in_the_metrics_own_units() -> None:
    scored = [{"score": score, "level": str(number % 2)} for number, score in enumerate(RIGHT)]
    done = outcome(scored, 60.0)
    best = read_metrics(done)[KEY]
    columns = {"level": ["x", "y"] * 5, "topic": ["p"] * 5 + ["q"] * 5, "rare": list("abcdefghij")}
    found = slicing(done, records(**columns), best, ["rare", "nowhere"])
    assert {name: own.source for name, own in found.dimensions.items()} == {
        "rare": "declared",
        "level": "scoring",
        "topic": "document",
    }
    assert found.unmet == ("nowhere",)
    pieces = {(piece["dimension"], piece["value"]): piece for piece in sample_slices(found.columns, best)}
    assert pieces["topic", "p"]["score"] == pytest.approx(60.0)
    assert pieces["topic", "p"]["sd"] == pytest.approx(float(np.std(RIGHT[:5], ddof=1)))
    assert pieces["level", "0"]["score"] == pytest.approx(100 * mean(RIGHT[::2]))


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"dimensions": ["a", "b", 3]}, ["a", "b"]),
        ([{"version": 0}, {"dimensions": ["a"]}], ["a"]),
        ({"dimensions": "a"}, []),
        (None, []),
        ("text", []),
    ],
)
def test_dimensions_that_a_task_declares(metadata: Any, names: list[str]) -> None:
    task = SimpleNamespace(config=SimpleNamespace(metadata=metadata))
    assert list(declared_dimensions(task)) == names
