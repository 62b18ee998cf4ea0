"""The states' table against its picture in words, and the run's state from its tasks'."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.states import ACTIVE, FINAL, MLFLOW_STATUS, MOVES, UNFINISHED, State, predecessors, run_state

Q, S, R, W, F, X, C = State  # queued, starting, running, recording, finished, failed, cancelled

ALLOWED = {
    *[(Q, S), (S, R), (R, W), (W, F)],  # the way through
    *[(S, X), (R, X), (W, X), (Q, X)],  # failure; a queued task that can never run fails too
    *[(Q, C), (S, C), (R, C), (W, C)],  # cancel: any that has not ended
    *[(S, Q), (R, Q), (W, Q)],  # automatic retry
    *[(X, Q), (C, Q)],  # a user's retry
}


@pytest.mark.parametrize(("start", "end"), list(product(State, State)))
def test_a_move_is_in_the_table_exactly_when_the_design_allows_it(start: State, end: State) -> None:
    assert (end in MOVES[start]) == ((start, end) in ALLOWED)
    assert (start in predecessors(end)) == ((start, end) in ALLOWED)


def test_the_kinds_of_states_cover_all_and_do_not_overlap() -> None:
    assert set(State) == UNFINISHED | FINAL
    assert not UNFINISHED & FINAL
    assert {Q} == UNFINISHED - ACTIVE
    assert set(MLFLOW_STATUS) == set(MOVES) == set(State)


@pytest.mark.parametrize(
    ("tasks", "state"),
    [
        ([Q, Q], Q),
        ([Q, S], S),
        ([S, R], R),
        ([W, S], W),
        ([F, Q], R),
        ([X, Q], R),
        ([C, Q], Q),
        ([F, F], F),
        ([F, X], X),
        ([F, C], C),
        ([X, C], X),
        ([C, C], C),
        ([X, R], R),
    ],
)
def test_the_run_is_what_its_tasks_are(tasks: list[State], state: State) -> None:
    assert run_state(tasks) == state
    assert run_state(reversed(tasks)) == state


@given(st.lists(st.sampled_from(State), min_size=1))
def test_the_run_has_ended_exactly_when_every_task_has(tasks: list[State]) -> None:
    assert (run_state(tasks) in FINAL) == all(task in FINAL for task in tasks)
    assert (run_state(tasks) == F) == all(task == F for task in tasks)


def test_a_run_without_tasks_has_no_state() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        run_state([])
