"""Slices from the files of runs: what they are made from, two runs paired or not, and the guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runner_files import FINGERPRINT, doc_hash, write_task

from mlflow_lmms.analysis.non_inferiority import Outcome
from mlflow_lmms.analysis.slices import Group
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.reading.cluster_id import cluster_id
from mlflow_lmms.run_reader import RunReader
from mlflow_lmms.score import Score
from mlflow_lmms.slice_report import SliceChange, SliceReport, guard_slices, slice_change, slice_report

KINDS = ["chart"] * 40 + ["photo"] * 40 + ["map"] * 6


def right(*counts: int) -> list[float]:
    """Right answers among charts, photos and maps."""
    sizes = (40, 40, 6)
    return [1.0 if at < count else 0.0 for count, size in zip(counts, sizes, strict=True) for at in range(size)]


class Runs:
    """Runs in folders, read as the server reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reader = RunReader(lambda run_id, path: folder / run_id / path.removeprefix("lmms/"))

    def add(
        self,
        run_id: str,
        scores: Sequence[float | None],
        *,
        kinds: Sequence[str | None] = KINDS,
        stored: bool = True,
        clusters: Sequence[Any] | None = None,
        dataset: str = "d" * 64,
        **changes: Any,
    ) -> Score:
        """A finished run of one task, whose documents have kinds.

        Args:
            stored: whether the kinds stand beside the scores, or as earlier runs have them in the samples alone.
        """
        fingerprint = {**FINGERPRINT, "dataset": dataset}
        path = write_task(
            self.folder / run_id,
            "t",
            {"acc": scores},
            columns={"doc:kind": pa.array(kinds, pa.string())},
            slices=self._slices(scores, kinds),
            fingerprint=fingerprint,
            **changes,
        )
        if stored or clusters is not None:
            self._store(path.parent.parent / "samples" / "t.scores.parquet", kinds, clusters)
        mean = float(np.mean([score for score in scores if score is not None]))
        return score_of(run_id, mean, fingerprint)

    def report(self, score: Score, *dimensions: str) -> SliceReport:
        return slice_report(self.reader, score, dimensions)

    def change(self, baseline: Score, candidate: Score) -> SliceChange:
        return slice_change(self.reader, baseline, candidate)

    @staticmethod
    def _slices(scores: Sequence[float | None], kinds: Sequence[str | None]) -> list[dict[str, Any]]:
        found = []
        for kind in sorted({kind for kind in kinds if kind is not None}):
            own = [s for s, k in zip(scores, kinds, strict=True) if k == kind and s is not None]
            deviation = float(np.std(own, ddof=1)) if len(own) > 1 else None
            told = {"dimension": "kind", "value": kind, "n": len(own), "score": float(np.mean(own))}
            found.append({**told, "sd": deviation})
        return found

    @staticmethod
    def _store(file: Path, kinds: Sequence[str | None], clusters: Sequence[Any] | None) -> None:
        table = pq.read_table(file)
        order = table["doc_id"].to_pylist()
        table = table.append_column("dim:kind", pa.array([kinds[at] for at in order], pa.string()))
        if clusters is not None:
            numbers = [cluster_id(clusters[at]) for at in order]
            table = table.append_column("cluster", pa.array(numbers, pa.int64()))
        pq.write_table(table, file)


def score_of(run_id: str, value: float, fingerprint: dict[str, Any]) -> Score:
    return Score(
        run_id=run_id,
        experiment_id="1",
        model=f"model {run_id}",
        suite="s",
        task="t",
        metric="acc",
        filter="none",
        value=value,
        low=None,
        high=None,
        n=86,
        higher_is_better=True,
        partial=False,
        attempt=1,
        fingerprint=fingerprint,
        recorded_at=1.0,
        factor=1.0,
    )


def kinds_of(found: SliceReport | SliceChange) -> dict[str, Group]:
    (dimension,) = found.dimensions
    return {group.name: group for group in dimension.groups}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_the_groups_of_a_result_are_told_with_their_gaps(runs: Runs) -> None:
    found = runs.report(runs.add("one", right(36, 20, 0)))
    groups = kinds_of(found)
    assert {name: (group.n, group.score) for name, group in groups.items()} == {
        "chart": (40, 0.9),
        "photo": (40, 0.5),
        "map": (6, 0.0),
    }
    gap = groups["photo"].to_rest
    assert gap is not None
    assert gap.value == pytest.approx(0.5 - 36 / 46)
    assert gap.shown
    assert (found.dimensions[0].worst, groups["map"].judged, found.clustered) == ("photo", False, False)
    told = found.as_json()
    assert told["dimensions"][0]["groups"][0]["to_rest"]["adjusted"] < 0.05
    assert (told["run_id"], told["fewest_judged"]) == ("one", 10)


def test_percentages_are_told_as_percentages(runs: Runs) -> None:
    plain = kinds_of(runs.report(runs.add("one", right(36, 20, 0))))["photo"].to_rest
    percent = [{"dimension": "kind", "value": v, "n": 40, "score": s, "sd": 0.4} for v, s in (("a", 90), ("b", 50))]
    metric = {"metric": "acc", "filter": "none", "value": 70.0, "factor": 100.0, "n": 80, "binary": True}
    write_task(runs.folder / "two", "t", {}, metrics=[metric], slices=[{**p, "metric": "acc"} for p in percent])
    found = runs.report(replace(score_of("two", 70.0, FINGERPRINT), factor=100.0))
    gap = kinds_of(found)["b"].to_rest
    assert plain is not None
    assert gap is not None
    assert gap.value == pytest.approx(-40)
    assert found.dimensions[0].gap == pytest.approx(40)
    assert -60 < gap.low < -20 < 0


def test_clusters_widen_the_intervals_of_groups(runs: Runs) -> None:
    rng = np.random.default_rng(3)
    level = rng.random(20)
    clusters = [at // 2 % 20 for at in range(86)]
    scores = [float(rng.random() < level[cluster]) for cluster in clusters]
    alone = runs.report(runs.add("alone", scores))
    score = runs.add("together", scores, clusters=clusters)
    file = runs.folder / "together" / "tasks" / "t.json"
    told = '"per_sample": true'
    file.write_text(file.read_text().replace(told, f'{told}, "clusters": 20, "clustered_stderr": 0.08'))
    together = runs.report(score)
    assert (alone.clustered, together.clustered) == (False, True)
    for name in ("chart", "photo"):
        one, two = kinds_of(alone)[name], kinds_of(together)[name]
        assert one.score == pytest.approx(two.score)
        assert one.low is not None
        assert two.low is not None
        assert two.low < one.low


def test_dimensions_of_the_answers_are_shown_only_when_asked_for(runs: Runs) -> None:
    sources = {"kind": {"source": "document", "outcome": True}}
    score = runs.add("one", right(36, 20, 0), dimension_sources=sources)
    assert runs.report(score).dimensions == ()
    asked = runs.report(score, "kind")
    assert (asked.dimensions[0].name, asked.outcomes) == ("kind", ("kind",))
    with pytest.raises(NotFoundError, match="has no dimension colour; it has kind"):
        runs.report(score, "colour")


@pytest.mark.parametrize("stored", [True, False])
def test_two_runs_over_the_same_documents_are_paired(runs: Runs, stored: bool) -> None:
    one, two = (runs.add(name, right(*c), stored=stored) for name, c in (("one", (20, 20, 3)), ("two", (34, 21, 3))))
    found = runs.change(one, two)
    assert (found.paired, found.reason) == (True, None)
    chart = kinds_of(found)["chart"]
    assert chart.n == 40
    assert chart.score == pytest.approx(0.35)
    assert chart.to_rest is not None
    assert chart.to_rest.value == pytest.approx(14 / 40 - 1 / 46)
    assert chart.to_rest.shown
    assert found.as_json()["candidate"] == {"run_id": "two", "model": "model two"}


def test_documents_that_only_one_run_has_take_no_part(runs: Runs) -> None:
    one = runs.add("one", right(20, 20, 3), dataset="a" * 64)
    scores: list[float | None] = [*right(34, 21, 3)]
    scores[:10] = [None] * 10
    hashes = [*(doc_hash(1000 + at) for at in range(10)), *(doc_hash(at) for at in range(10, 86))]
    two = runs.add("two", scores, dataset="b" * 64, hashes=hashes)
    found = runs.change(one, two)
    assert found.paired
    assert kinds_of(found)["chart"].n == 30


def test_runs_over_other_documents_are_compared_unpaired(runs: Runs) -> None:
    one = runs.add("one", right(20, 20, 3), dataset="a" * 64)
    two = runs.add("two", right(34, 21, 3), dataset="b" * 64, hashes=[doc_hash(1000 + at) for at in range(86)])
    found = runs.change(one, two)
    assert not found.paired
    assert "the documents differ" in str(found.reason)
    chart = kinds_of(found)["chart"]
    assert chart.score == pytest.approx(0.35)
    assert chart.to_rest is not None
    assert chart.to_rest.value == pytest.approx((34 / 40 - 24 / 46) - (20 / 40 - 23 / 46))


def test_runs_with_other_prompts_are_not_compared(runs: Runs) -> None:
    one, two = runs.add("one", right(20, 20, 3)), runs.add("two", right(34, 21, 3))
    other = replace(two, fingerprint={**two.fingerprint, "task_config": "another"})
    found = runs.change(one, other)
    assert found.dimensions == ()
    assert "prompts" in str(found.reason)


@pytest.mark.parametrize("stored", [True, False])
def test_the_guard_finds_the_group_that_became_worse(runs: Runs, stored: bool) -> None:
    one = runs.add("one", right(38, 38, 6), stored=stored)
    two = runs.add("two", right(15, 38, 0), stored=stored)
    found = {judgement.value: judgement for judgement in guard_slices(runs.reader, one, two, 0.1)}
    assert found["chart"].outcome is Outcome.FAIL
    assert found["chart"].gain == pytest.approx(-23 / 40)
    assert found["photo"].outcome is Outcome.PASS
    assert (found["map"].outcome, found["map"].n) == (None, 6)
    assert "fewer than 10 documents" in found["map"].reason
    assert guard_slices(runs.reader, one, replace(two, metric="other"), 0.1) == ()
    assert guard_slices(runs.reader, one, two, 0.1, ["colour"]) == ()


def test_a_cluster_has_one_number_in_every_run() -> None:
    assert cluster_id("video 7") == cluster_id("video 7") != cluster_id("video 8")
    assert cluster_id(7) == cluster_id("7")
    assert cluster_id(None) is None
    assert -(2**63) <= (cluster_id("video 7") or 0) < 2**63
