"""States of an evaluation and of its tasks, the table of allowed moves, and the classes of failure. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class State(StrEnum):
    """State of one task of a run; the run's own state is derived from its tasks' by `run_state`."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    RECORDING = "recording"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FailureClass(StrEnum):
    """Why a task failed, as far as it can be told."""

    BAD_REQUEST = "bad_request"
    DATASET = "dataset"
    MODEL_LOAD = "model_load"
    OUT_OF_MEMORY = "out_of_memory"
    JUDGE = "judge"
    SCORING = "scoring"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    UNKNOWN = "unknown"


ACTIVE = frozenset({State.STARTING, State.RUNNING, State.RECORDING})
FINAL = frozenset({State.FINISHED, State.FAILED, State.CANCELLED})
UNFINISHED = frozenset({State.QUEUED, *ACTIVE})

#: state → states that may follow it. `queued` after an active state is an automatic retry, after a final one
#: a user's retry; both add one to the attempt.
MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.FAILED, State.CANCELLED}),
    State.STARTING: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.RUNNING: frozenset({State.RECORDING, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.RECORDING: frozenset({State.FINISHED, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.FINISHED: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}

#: Moves of a task that has a result whose answers are scored again; the result stands until another replaces it, so
#: that whatever becomes of the rescore the task is finished in the end. Beside `MOVES`, for such tasks alone.
RESCORE_MOVES: dict[State, frozenset[State]] = {
    State.FINISHED: frozenset({State.QUEUED}),
    State.QUEUED: frozenset({State.FINISHED}),
    State.STARTING: frozenset({State.FINISHED}),
    State.RUNNING: frozenset({State.FINISHED}),
    State.RECORDING: frozenset({State.FINISHED}),
}

#: MLflow's run status for each state of the run.
MLFLOW_STATUS: dict[State, str] = {
    State.QUEUED: "SCHEDULED",
    State.STARTING: "RUNNING",
    State.RUNNING: "RUNNING",
    State.RECORDING: "RUNNING",
    State.FINISHED: "FINISHED",
    State.FAILED: "FAILED",
    State.CANCELLED: "KILLED",
}


def predecessors(target: State, moves: Mapping[State, frozenset[State]] = MOVES) -> frozenset[State]:
    """The states from which a task may move to `target`."""
    return frozenset(state for state, followers in moves.items() if target in followers)


def run_state(tasks: Iterable[State]) -> State:
    """The run's state: finished when all tasks are; failed, with its results, when one failed for good.

    While anything is unfinished the run shows its most advanced activity, and `running` between two tasks.
    """
    states = set(tasks)
    if not states:
        raise ValueError("a run has at least one task; got none")
    if states & UNFINISHED:
        for state in (State.RUNNING, State.RECORDING, State.STARTING):
            if state in states:
                return state
        return State.RUNNING if states & {State.FINISHED, State.FAILED} else State.QUEUED
    for state in (State.FAILED, State.CANCELLED):
        if state in states:
            return state
    return State.FINISHED
