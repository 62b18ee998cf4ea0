"""What the analysis finds as pandas data frames, for notebooks: one row for each cell, read from the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_lmms.client import Client
from mlflow_lmms.report.records import Records, change_records, slice_records, trend_records

if TYPE_CHECKING:
    import pandas as pd

_CELL = ("value", "low", "high", "n", "rank", "tied", "rank_interval", "paired", "note", "run_id", "recorded_at")


def leaderboard(client: Client | None = None, **narrowed: Any) -> pd.DataFrame:
    """The leaderboard, one row for each model and task, the best model first.

    Args:
        narrowed: what `Client.leaderboard` takes, as `suite` or `versions`.
    """
    import pandas as pd  # a second that other programs need not wait for

    board = (client or Client()).leaderboard(**narrowed)
    columns = {column["task"]: column for column in board["columns"]}
    rows = [
        {
            "model": row["model"],
            "overall_rank": row["rank"],
            "win_rate": row["win_rate"],
            "task": task,
            "metric": columns[task]["metric"],
            "filter": columns[task]["filter"],
            **{name: cell[name] for name in _CELL},
        }
        for row in board["rows"]
        for task, cell in sorted(row["cells"].items())
    ]
    names = ("model", "overall_rank", "win_rate", "task", "metric", "filter", *_CELL)
    return pd.DataFrame(rows, columns=list(names))


def slices(
    run_id: str,
    *,
    tasks: Sequence[str] = (),
    dimensions: Sequence[str] = (),
    against: str | None = None,
    client: Client | None = None,
) -> pd.DataFrame:
    """Groups of a run's documents, one row for each group; with `against`, what each gains over that run.

    Columns ``rest_…`` are the gap to the rest (or its change), ``best_…`` the gap to the best group.
    """
    found = (client or Client()).slices(run_id, tasks=tasks, dimensions=dimensions, against=against)
    return _frame(slice_records(found))


def trend(model: str, *, client: Client | None = None, **narrowed: Any) -> pd.DataFrame:
    """A model's results, one row for each task and point, oldest first, with the change from the one before.

    Args:
        narrowed: `tasks`, `suite`, `experiment` and `over` of `Client.trend`.
    """
    return _frame(trend_records((client or Client()).trend(model, **narrowed)))


def changes(
    since: float, until: float | None = None, *, client: Client | None = None, **narrowed: Any
) -> pd.DataFrame:
    """What changed in a period (unix seconds), one row for each model and task, worse ones first.

    Args:
        narrowed: `suite` and `experiment` of `Client.changes`.
    """
    return _frame(change_records((client or Client()).changes(since=since, until=until, **narrowed)))


def compare(*run_ids: str, tasks: Sequence[str] = (), client: Client | None = None) -> pd.DataFrame:
    """Runs against the first of them, one row for each candidate and task (`comparison.TaskDifference`)."""
    import pandas as pd

    found = (client or Client()).compare(*run_ids, tasks=tasks)
    rows = [
        {
            "task": task["task"],
            "metric": task["metric"],
            "filter": task["filter"],
            "baseline": task["baseline"]["value"],
            "run_id": run_id,
            "model": found["models"][run_id],
            **told,
        }
        for task in found["tasks"]
        for run_id, told in task["candidates"].items()
    ]
    return pd.DataFrame(rows)


def gate(
    candidate: str, baseline: str, *, suite: str | None = None, client: Client | None = None, **fields: Any
) -> pd.DataFrame:
    """A gate's verdict, one row for each task; the verdict itself stands in ``frame.attrs["outcome"]``.

    Args:
        fields: the others of `Client.gate`. ``frame.attrs["gate"]`` is the whole answer.
    """
    import pandas as pd

    told = (client or Client()).gate(candidate, baseline, suite=suite, **fields)
    frame = pd.DataFrame([{key: value for key, value in task.items() if key != "groups"} for task in told["tasks"]])
    frame.attrs |= {"outcome": told["outcome"], "gate": told}
    return frame


def _frame(records: Records) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(records.rows, columns=list(records.columns))
