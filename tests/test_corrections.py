"""The ledger of corrected results, on SQLite and PostgreSQL, and what boards and comparisons make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from runner_files import FINGERPRINT, write_task
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.comparison import Verdict, compare_with_baseline
from mlflow_lmms.corrections import Action, Correction, Corrections, apply_corrections
from mlflow_lmms.database import open_database
from mlflow_lmms.errors import ConflictError, UnavailableError
from mlflow_lmms.names import Tag
from mlflow_lmms.result_correction import CorrectionRequest
from mlflow_lmms.run_recorder import RunRecorder
from mlflow_lmms.score import Score, flags_of, incomparable, is_invalidated, is_rescored
from mlflow_lmms.services import Services
from mlflow_lmms.sql.migration import migrate
from mlflow_lmms.sql.schema import ScoreRow


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with our tables."""
    if request.param == "postgresql":
        where = str(request.getfixturevalue("postgres_url"))
    else:
        where = f"sqlite:///{tmp_path_factory.mktemp('corrections')}/lmms.db"
    opened = open_database(where)
    migrate(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Corrections:
    """A ledger without entries."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM lmms_corrections"))
        connection.execute(text("DELETE FROM lmms_scores"))
    return Corrections(engine, clock=lambda: 7.0)


def add(ledger: Corrections, action: Action, task: str = "t", run: str = "r", **more: Any) -> Correction:
    experiment = more.pop("experiment", "1")
    return ledger.add(experiment, run, task, action, reason=f"because {action}", by="ann", **more)


def row(task: str = "t", *, metric: str = "acc", dimension: str = "", primary: bool = True) -> ScoreRow:
    return ScoreRow(
        run_id="r", task=task, metric=metric, filter="none", dimension=dimension, slice="x" if dimension else "",
        experiment_id="1", model="m", suite="s", value=0.5, low=0.4, high=0.6, n=100, higher_is_better=True,
        primary=primary, partial=False, attempt=1, fingerprint="{}", recorded_at=1.0, source="queue",
        warnings='["below_chance"]', factor=1.0, scale_high=1.0,
    )  # fmt: skip


def applied(engine: Engine, *rows: ScoreRow) -> list[tuple[float, float | None, list[str]]]:
    with Session(engine) as session, session.begin():
        apply_corrections(session, rows)
        session.add_all(rows)
    with Session(engine) as session:
        query = select(ScoreRow).order_by(ScoreRow.task, ScoreRow.metric, ScoreRow.dimension)
        found = [(r.value, r.low, json.loads(r.warnings)) for r in session.scalars(query)]
        session.execute(text("DELETE FROM lmms_scores"))
        session.commit()
    return found


def score(**changes: Any) -> Score:
    made = Score(
        run_id="r", experiment_id="1", model="m", suite="s", task="t", metric="acc", filter="none", value=0.5,
        low=None, high=None, n=100, higher_is_better=True, partial=False, attempt=1, fingerprint=FINGERPRINT,
        recorded_at=1.0, factor=1.0,
    )  # fmt: skip
    return replace(made, **changes)


def test_without_entries_rows_stay_as_they_are(ledger: Corrections, engine: Engine) -> None:
    add(ledger, Action.INVALIDATE, run="another")
    add(ledger, Action.INVALIDATE, task="another")
    assert applied(engine, row()) == [(0.5, 0.4, ["below_chance"])]


def test_an_invalidated_result_keeps_its_number_and_every_row_of_it_is_marked(
    ledger: Corrections, engine: Engine
) -> None:
    add(ledger, Action.INVALIDATE)
    marked = ["below_chance", "invalidated"]
    rows = (row(), row(metric="f1", primary=False), row(dimension="d"), row("u"))
    assert applied(engine, *rows) == [
        (0.5, 0.4, marked),
        (0.5, 0.4, marked),
        (0.5, 0.4, marked),
        (0.5, 0.4, ["below_chance"]),
    ]


def test_a_rescored_result_has_its_new_value_in_the_primary_metric_alone(ledger: Corrections, engine: Engine) -> None:
    add(ledger, Action.RESCORE, value=0.7, low=0.65, high=0.75)
    add(ledger, Action.RESCORE, task="u", value=0.9)
    found = applied(engine, row(), row(dimension="d"), row(metric="f1", primary=False), row("u"))
    assert found == [
        (0.7, 0.65, ["below_chance", "rescored"]),
        (0.5, 0.4, ["below_chance"]),
        (0.5, 0.4, ["below_chance"]),
        (0.9, None, ["below_chance", "rescored_no_interval"]),
    ]


def test_the_newest_entry_counts_and_undoing_is_an_entry(ledger: Corrections, engine: Engine) -> None:
    add(ledger, Action.RESCORE, value=0.7, low=0.6, high=0.8)
    add(ledger, Action.INVALIDATE)
    assert applied(engine, row())[0][2][-1] == "invalidated"
    add(ledger, Action.RESTORE)
    assert applied(engine, row()) == [(0.5, 0.4, ["below_chance"])]
    with pytest.raises(ConflictError, match="stands as it was recorded already"):
        add(ledger, Action.RESTORE)
    add(ledger, Action.RESCORE, value=0.8)
    assert applied(engine, row())[0][0] == 0.8
    assert [c.action for c in ledger.search(None)] == ["rescore", "restore", "invalidate", "rescore"]


def test_entries_are_listed_newest_first_and_only_of_readable_experiments(ledger: Corrections) -> None:
    made = [
        add(ledger, Action.INVALIDATE),
        add(ledger, Action.INVALIDATE, task="u"),
        add(ledger, Action.INVALIDATE, run="hidden", experiment="2"),
    ]
    assert ledger.search(None) == made[::-1]
    assert ledger.search({"1"}) == made[1::-1]
    assert ledger.search({"1"}, run_ids=["hidden"]) == ledger.search(()) == []
    assert ledger.search({"1", "2"}, task="u") == [made[1]]
    assert ledger.search(None, before=made[2].id, limit=1) == [made[1]]
    assert made[0].as_json()["reason"] == "because invalidate" and made[0].created_at == 7.0


def test_boards_say_who_corrected_a_result_and_why(ledger: Corrections) -> None:
    add(ledger, Action.INVALIDATE)
    add(ledger, Action.RESCORE, task="u", value=0.7)
    (warning,) = ledger.warnings(score(warnings=("below_chance", "invalidated")))
    assert (warning.name, warning.message) == ("invalidated", "Invalidated by ann: because invalidate")
    (warning,) = ledger.warnings(score(task="u", warnings=("rescored_no_interval",)))
    assert warning.message == "Re-scored by hand as 0.7 by ann: because rescore"
    assert ledger.warnings(score(warnings=("below_chance",))) == ()
    assert ledger.warnings(score(run_id="other", warnings=("invalidated",))) == ()


def test_an_invalidated_result_is_compared_with_nothing() -> None:
    wrong = score(run_id="b", warnings=("invalidated",))
    assert is_invalidated(wrong)
    assert incomparable(score(), wrong) == "the result was invalidated"
    assert incomparable(wrong, score()) == "the other result was invalidated"
    assert incomparable(wrong, wrong) is not None
    found = compare_with_baseline(["r", "b"], [score(), wrong], lambda _: None)
    told = found.tasks[0].candidates["b"]
    assert (told.verdict, told.reason) == (Verdict.NOT_COMPARABLE, "the result was invalidated")


def test_a_rescored_result_is_ranked_only_with_an_interval() -> None:
    assert is_rescored(score(warnings=("rescored",))) and not is_rescored(score())
    assert flags_of(score(warnings=("rescored",))) == ()
    assert flags_of(score(warnings=("rescored_no_interval",))) == ("rescored_no_interval",)
    assert flags_of(score(warnings=("invalidated",))) == ("invalidated",)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"action": "rescore"}, "a number goes with rescore"),
        ({"action": "invalidate", "value": 0.5}, "a number goes with rescore"),
        ({"action": "restore", "low": 0.1, "high": 0.2}, "both ends of the interval, with a value"),
        ({"action": "rescore", "value": 0.5, "low": 0.4}, "both ends"),
        ({"action": "rescore", "value": 0.5, "low": 0.6, "high": 0.7}, "must lie between"),
        ({"action": "rescore", "value": 0.5, "low": 0.4, "high": 0.45}, "must lie between"),
        ({"action": "rescore", "value": float("nan")}, "finite"),
        ({"action": "rescore", "value": float("inf")}, "finite"),
        ({"action": "delete"}, "'invalidate', 'rescore' or 'restore'"),
        ({"action": "invalidate", "reason": " \n"}, "reason"),
        ({"action": "invalidate", "reason": "a\x00b"}, "reason"),
        ({"action": "invalidate", "reason": "\ud800"}, "reason"),
        ({"action": "invalidate", "reason": "x" * 2001}, "reason"),
        ({"action": "invalidate", "task": "a/b"}, "task"),
        ({"action": "invalidate", "author": "me"}, "author"),
    ],
)
def test_what_is_not_sound_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CorrectionRequest.model_validate({"task": "t", "reason": "why", **fields})


def recorded(services: Services, folder: Path, accuracy: int) -> str:
    """A run of the folder's model over 20 documents, of which so many are right; on the boards."""
    client = services.client
    run_id = str(
        client.create_run("0", tags={Tag.MODEL: folder.name, Tag.SOURCE: "import", Tag.TASKS: "t"}).info.run_id
    )
    scores = [float(number < accuracy) for number in range(20)]
    # Answers of its own: with those of an earlier run it would be a score that moved.
    answers = {"responses": pa.array([[f"{run_id} says {number}"] for number in range(20)])}
    file = write_task(folder / run_id, "t", {"acc": scores}, columns=answers)
    RunRecorder(client).record_task(run_id, file, 1)
    services.scores.refresh_run(run_id)
    return run_id


def shown(services: Services, model: str) -> tuple[str, float, tuple[str, ...]]:
    """The model's cell: run, value and warnings."""
    board = services.boards.ranked(BoardQuery(tasks=("t",)), experiment_ids=None).board
    cell = next(row for row in board.rows if row.model == model).cells["t"]
    return cell.score.run_id, cell.score.value, cell.score.warnings


def correct(services: Services, run_id: str, action: str, **more: Any) -> None:
    asked = CorrectionRequest.model_validate({"task": "t", "action": action, "reason": "why", **more})
    services.result_correction.correct(run_id, asked, by="ann")


def test_an_earlier_result_that_stands_takes_the_place_of_an_invalidated_one(
    services: Services, tmp_path: Path
) -> None:
    earlier, later = recorded(services, tmp_path, 12), recorded(services, tmp_path, 19)
    assert shown(services, tmp_path.name) == (later, 0.95, ())
    correct(services, later, "invalidate")
    assert shown(services, tmp_path.name) == (earlier, 0.6, ())
    correct(services, earlier, "invalidate")
    assert shown(services, tmp_path.name) == (later, 0.95, ("invalidated",))
    correct(services, earlier, "restore")
    assert shown(services, tmp_path.name) == (earlier, 0.6, ())
    correct(services, later, "rescore", value=0.7, low=0.6, high=0.8)
    assert shown(services, tmp_path.name) == (later, 0.7, ("rescored",))
    correct(services, later, "restore")
    assert shown(services, tmp_path.name) == (later, 0.95, ())


def test_a_correction_is_kept_and_followed_later_where_mlflow_does_not_answer(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = recorded(services, tmp_path, 12)

    def refuse(_: str) -> int:
        raise UnavailableError("MLflow is away")

    with monkeypatch.context() as patch:
        patch.setattr(services.scores, "refresh_run", refuse)
        with pytest.raises(UnavailableError):
            correct(services, run_id, "invalidate")
    assert shown(services, tmp_path.name)[2] == ()
    services.feed.tick()
    assert shown(services, tmp_path.name) == (run_id, 0.6, ("invalidated",))
