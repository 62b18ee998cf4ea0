"""Results as the `model-index` of a Hugging Face model card, which its page shows beside the model. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from mlflow_lmms.report.board_sheet import doubts_of

_NAME = "model-index"
#: The Hub's own name of what a model is asked to do, by the modality of the task.
_TASK_TYPES = {
    "text": "text-generation",
    "image": "image-text-to-text",
    "video": "video-text-to-text",
    "audio": "audio-text-to-text",
}
_OTHER = "any-to-any"


def model_index(
    board: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]], models: Collection[str] = ()
) -> str:
    """The YAML of what `Client.leaderboard` returns, to be put between the ``---`` lines of a model card.

    Results that are not ranked (doubtful, partial, not comparable) do not go onto a card; published ones neither.

    Args:
        tasks: what is known of each task: ``modality`` and ``dataset``; may be empty.
        models: only these; none: every model of the board.
    """
    columns = {column["task"]: column for column in board["columns"]}
    cards = [
        {"name": row["model"], "results": results}
        for row in board["rows"]
        if (not models or row["model"] in models)
        and (results := [_result(cell, columns[task], tasks.get(task, {})) for task, cell in _sound(row)])
    ]
    written: str = yaml.safe_dump({_NAME: cards}, sort_keys=False, allow_unicode=True, width=110)
    return written


def left_out(board: Mapping[str, Any], models: Collection[str] = ()) -> list[str]:
    """The results that do not go onto a card, with the reason."""
    return [
        f"{row['model']}, {task}: {'; '.join(doubts_of(cell)) or 'not ranked'}"
        for row in board["rows"]
        if not models or row["model"] in models
        for task, cell in sorted(row["cells"].items())
        if cell["rank"] is None
    ]


def _sound(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(task, cell) for task, cell in sorted(row["cells"].items()) if cell["rank"] is not None]


def _result(cell: Mapping[str, Any], column: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    metric = column["metric"] if column["filter"] == "none" else f"{column['metric']} ({column['filter']})"
    told = {"n": cell["n"], "ci_low": cell["low"], "ci_high": cell["high"]}
    args = {key: value for key, value in told.items() if value is not None}
    return {
        "task": {"type": _TASK_TYPES.get(str(known.get("modality")), _OTHER), "name": column["task"]},
        "dataset": {"type": known.get("dataset") or column["task"], "name": column["task"]},
        "metrics": [
            {"type": column["metric"], "value": cell["value"], "name": metric} | ({"args": args} if args else {})
        ],
    }
