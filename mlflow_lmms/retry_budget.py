"""How often a task is tried again by itself, by what ended its attempt. Pure.

What is nobody's failure (preemption, a drained box, a GPU that others use) is charged to nothing and not asked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from mlflow_lmms.states import FailureClass


class Budget(StrEnum):
    """What an automatic retry is charged to."""

    WORKER_LOST = "worker_lost"
    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"


#: Automatic retries of one task; a user's retry starts them anew.
LIMITS: Mapping[Budget, int] = {
    Budget.WORKER_LOST: 5,
    Budget.CRASH: 2,
    Budget.OUT_OF_MEMORY: 1,
    Budget.TIMEOUT: 1,
}


def budget_of(failure: FailureClass, *, retryable: bool) -> Budget | None:
    """What another attempt after this failure is charged to; None: it would end the same way.

    Args:
        retryable: whether the worker takes it for a matter of chance, as when somebody killed the process.
    """
    if failure is FailureClass.OUT_OF_MEMORY:
        return Budget.OUT_OF_MEMORY
    if failure is FailureClass.TIMEOUT:
        return Budget.TIMEOUT
    return Budget.CRASH if retryable else None


def allows(budget: Budget, used: Mapping[str, int]) -> bool:
    """Whether a task that was tried again so often already may be tried once more."""
    return used.get(budget, 0) < LIMITS[budget]


def charged(used: Mapping[str, int], budget: Budget | None) -> dict[str, int]:
    """The counts after one more retry; one that is charged to nothing changes none."""
    counts = dict(used)
    if budget is not None:
        counts[budget] = counts.get(budget, 0) + 1
    return counts
