"""Trends and changes in a period: what is tested against what, where comparing breaks, and who may see it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from runner_files import FINGERPRINT, doc_hash
from sqlalchemy.orm import Session

from mlflow_lmms.comparison import Verdict
from mlflow_lmms.database import open_database
from mlflow_lmms.errors import NotFoundError
from mlflow_lmms.model_trend import Entry, Point, family, latest_of_versions, make_trends
from mlflow_lmms.period import Change, changes_in, counts
from mlflow_lmms.score import Score
from mlflow_lmms.score_rows import FIELDS
from mlflow_lmms.score_vectors import DocumentKeys, ScoreVector
from mlflow_lmms.sql.migration import migrate
from mlflow_lmms.sql.schema import Base, IndexedRunRow, ScoreRow
from mlflow_lmms.trends import Narrowing, Trends

ALL = Narrowing(experiment_ids=None)


def result(version: int | str, right: int, at: float, task: str = "t", **fields: Any) -> Score:
    """A result with so many of 100 answers right."""
    model = f"m v{version}" if isinstance(version, int) else version
    made = Score(
        run_id=f"{model} at {at:g}",
        experiment_id="1",
        model=model,
        suite="s",
        task=task,
        metric="acc",
        filter="none",
        value=right / 100,
        low=None,
        high=None,
        n=100,
        higher_is_better=True,
        partial=False,
        attempt=1,
        fingerprint=FINGERPRINT,
        recorded_at=at,
        factor=1.0,
    )
    return replace(made, **fields)


def vector(score: Score) -> ScoreVector | None:
    """Documents that are the same everywhere, the easy ones first."""
    order = np.argsort([doc_hash(at) for at in range(100)])
    values = (np.arange(100) < round(score.value * 100)).astype(float)[order]
    return ScoreVector(values, lambda: DocumentKeys(None, None), str(score.fingerprint["dataset"]))


def points(*scores: Score, revisions: Sequence[int | None] = ()) -> tuple[Point, ...]:
    known = [*revisions, *[None] * len(scores)]
    (trend,) = make_trends([Entry(s, r) for s, r in zip(scores, known, strict=False)], vector)
    return trend.points


def verdicts(found: Sequence[Point]) -> list[Verdict | None]:
    return [None if point.change is None else point.change.verdict for point in found]


@pytest.mark.parametrize(
    ("model", "expected"),
    [("m v3", ("m", 3)), ("m v2 v10", ("m v2", 10)), ("m", ("m", None)), ("llava v1.5", ("llava v1.5", None))],
)
def test_a_version_belongs_to_a_registered_model(model: str, expected: tuple[str, int | None]) -> None:
    assert family(model) == expected


def test_each_version_is_tested_against_the_one_before() -> None:
    found = points(result(1, 60, 1), result(2, 80, 2), result(3, 79, 3), result(4, 60, 4))
    assert verdicts(found) == [None, Verdict.BETTER, Verdict.UNDECIDED, Verdict.WORSE]
    assert [point.against for point in found] == [None, "m v1 at 1", "m v2 at 2", "m v3 at 3"]
    (trend,) = make_trends([Entry(point.score) for point in found], vector)
    assert trend.as_json()["regressions"] == ["m v4 at 4"]


def test_where_lower_is_better_a_rise_is_a_regression() -> None:
    found = points(*(result(at, right, at, higher_is_better=False) for at, right in ((1, 60), (2, 80))))
    assert verdicts(found) == [None, Verdict.WORSE]


def test_holm_counts_every_test_of_the_trend() -> None:
    scores = [result(1, 50, 1), result(2, 57, 2)]
    assert verdicts(points(*scores)) == [None, Verdict.BETTER]
    more = [replace(score, task=f"t{at}") for at in range(5) for score in scores]
    trends = make_trends([Entry(score) for score in more], vector)
    assert {point.change.verdict for trend in trends for point in trend.points if point.change} == {Verdict.UNDECIDED}


def test_a_break_is_marked_and_the_trend_goes_on_from_there() -> None:
    other = {**FINGERPRINT, "lmms_eval": "0.8"}
    found = points(result(1, 80, 1), result(2, 50, 2, fingerprint=other), result(3, 30, 3, fingerprint=other))
    assert [point.breaks for point in found] == [False, True, False]
    assert verdicts(found) == [None, Verdict.NOT_COMPARABLE, Verdict.WORSE]
    assert found[1].change is not None
    assert "lmms-eval" in str(found[1].change.reason)
    assert found[1].change.p_value is None


def test_a_new_revision_of_the_suite_is_marked_and_breaks_nothing_by_itself() -> None:
    found = points(result(1, 80, 1), result(2, 50, 2), result(3, 50, 3), revisions=(1, 2, 2))
    assert [point.new_revision for point in found] == [False, True, False]
    assert verdicts(found)[1] is Verdict.WORSE


def test_a_flagged_result_is_shown_and_passed_over() -> None:
    found = points(result(1, 80, 1), result(2, 10, 2, warnings=("empty_responses",)), result(3, 50, 3))
    assert found[1].flagged == ("empty_responses",)
    assert verdicts(found) == [None, None, Verdict.WORSE]
    assert found[2].against == "m v1 at 1"


def test_published_scores_are_left_out() -> None:
    assert len(points(result(1, 80, 1), result(2, 90, 2, source="reported"))) == 1


def test_of_each_version_the_latest_counts_in_the_order_of_versions() -> None:
    scores = [result(10, 1, 1), result(2, 2, 2), result(2, 3, 3), result(9, 4, 2.5, task="u")]
    found = latest_of_versions([Entry(score) for score in scores])
    assert [(entry.score.model, entry.score.value) for entry in found] == [
        ("m v2", 0.03),
        ("m v9", 0.04),
        ("m v10", 0.01),
    ]


def told(changes: Sequence[Change]) -> list[tuple[str, str, str]]:
    return [(change.model, change.task, change.as_json()["verdict"]) for change in changes]


def test_a_period_tells_what_is_worse_better_and_new() -> None:
    scores = [
        result(1, 80, 1),
        result(2, 85, 5),
        result(3, 50, 12),  # only the newest of the period counts
        result(4, 60, 15),
        result("n v1", 40, 2),
        result("n v1", 60, 14),
        result("o", 70, 13),
        result("p v1", 10, 1),  # nothing new of it
        result("q", 70, 25),  # after the end
        result(5, 1, 16, partial=True),
        result(6, 1, 17, warnings=("judge_failed",)),
        result(7, 1, 18, source="reported"),
    ]
    changes = changes_in(scores, 10, 20, vector)
    assert told(changes) == [("m", "t", "worse"), ("n", "t", "better"), ("o", "t", "new")]
    worse = changes[0]
    assert (worse.before and worse.before.model, worse.after.model) == ("m v2", "m v4")
    assert worse.difference is not None
    assert worse.difference.difference == pytest.approx(-0.25)
    assert counts(changes) == {"worse": 1, "better": 1, "new": 1}


def test_nothing_in_a_period_is_no_change() -> None:
    assert changes_in([result(1, 80, 1)], 10, 20, vector) == ()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def trends(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Trends]:
    """An index with two models in two experiments."""
    where = f"sqlite:///{tmp_path}/lmms.db"
    engine = open_database(str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else where)
    migrate(engine)
    scores = [
        result(1, 60, 1_000),
        result(2, 80, 2_000),
        result(3, 50, 3_000, experiment_id="2"),
        result("m visual v1", 10, 2_500),
        result("m", 20, 2_600),
    ]
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    with Session(engine) as session, session.begin():
        for at, score in enumerate(scores):
            fields = {name: getattr(score, name) for name in FIELDS}
            fields |= {"fingerprint": json.dumps(score.fingerprint), "warnings": "[]", "run_id": f"run {at}"}
            session.add(ScoreRow(dimension="", slice="", primary=True, **fields))
            sliced = fields | {"value": 0.99}
            session.add(ScoreRow(dimension="kind", slice="chart", primary=True, **sliced))
            session.add(
                IndexedRunRow(
                    run_id=f"run {at}",
                    experiment_id=score.experiment_id,
                    model=score.model,
                    source="queue",
                    created_at=score.recorded_at - 10,
                    digest="",
                    suite_revision=at,
                )
            )
    yield Trends(engine, vector)
    engine.dispose()


def test_a_trend_is_read_from_the_index(trends: Trends) -> None:
    (found,) = trends.trend("m", ALL)["tasks"]
    assert [point["model"] for point in found["points"]] == ["m", "m v1", "m v2", "m v3"]
    assert [point["suite_revision"] for point in found["points"]] == [4, 0, 1, 2]
    assert found["regressions"] == ["run 2"]
    (by_time,) = trends.trend("m", ALL, "time")["tasks"]
    assert [point["model"] for point in by_time["points"]] == ["m v1", "m v2", "m", "m v3"]


def test_a_trend_shows_what_the_caller_may_read(trends: Trends) -> None:
    (found,) = trends.trend("m", Narrowing(experiment_ids={"2"}))["tasks"]
    assert [point["model"] for point in found["points"]] == ["m v3"]
    for narrowing in (Narrowing(experiment_ids=set()), replace(ALL, suite="other"), replace(ALL, tasks=["other"])):
        with pytest.raises(NotFoundError, match="no result of model 'm'"):
            trends.trend("m", narrowing)
        assert trends.changes(0, 9_000, narrowing)["changes"] == []


def test_the_changes_of_a_period_are_read_from_the_index(trends: Trends) -> None:
    found = trends.changes(2_700, 9_000, ALL)
    (change,) = found["changes"]
    assert (change["model"], change["verdict"]) == ("m", "better")
    assert (change["before"]["model"], change["after"]["model"]) == ("m", "m v3")
    alone = trends.changes(2_700, 9_000, Narrowing(experiment_ids={"2"}))
    assert (alone["counts"], alone["changes"][0]["before"]) == ({"new": 1}, None)
