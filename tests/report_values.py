"""A board and a comparison as the API answers them, with the names that an enemy would choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOSTILE = (
    "=cmd|'/c calc'!A0 </td><script>alert(1)</script> & \"quoted\" `x` _a_ #1 $x^2$ "
    "\\input{/etc/passwd} ~ 50% {y} [z](javascript:1)"
)
_WARNING = {"name": "empty_responses", "message": f"31 of 80 responses are empty {HOSTILE}", "count": 31, "of": 80}


def cell(task: str, value: float, rank: int | None = 1, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "run_id": "0123456789abcdef" * 2, "task": task, "metric": "acc", "filter": "none", "value": value,
        "low": value - 0.03, "high": value + 0.02, "n": 1500, "higher_is_better": True, "partial": False,
        "rank": rank, "tied": False, "rank_interval": [rank, rank + 1] if rank else None,
        "paired": True if rank else None,
        "note": None, "flagged": (), "warnings": [], "recorded_at": 1.0, "source": "queue",
    }  # fmt: skip
    return made | fields


def board(models: int = 3, tasks: int = 4, *, hostile: bool = True) -> dict[str, Any]:
    names = [f"model-{at} v{at + 1}" for at in range(models)]
    task_names = [f"task_{at}" for at in range(tasks)]
    if hostile:
        names[-1], task_names[-1] = HOSTILE, f"refcoco+ {HOSTILE}"
    rows: list[dict[str, Any]] = []
    for at, name in enumerate(names):
        cells = {task: cell(task, 0.9 - 0.1 * at - 0.01 * number, at + 1) for number, task in enumerate(task_names)}
        rows.append(
            {
                "model": name, "rank": at + 1, "win_rate": 1 - at / models,
                "overall": {"value": 1 - at / models, "low": 0.1, "high": 0.9, "note": None}, "coverage": len(cells),
                "cost": {"gpu_hours": 1.5, "tokens": 12345, "runs": 3, "runs_known": 2, "on_front": at == 0},
                "cells": cells, "reported": {},
            }
        )  # fmt: skip
    doubtful = cell(task_names[0], 0.31, None, flagged=("empty_responses",), warnings=[_WARNING])
    rows[-1]["cells"][task_names[0]] = doubtful
    del rows[-1]["cells"][task_names[1]]
    published = {"run_id": "f" * 32, "metric": "acc", "filter": "none", "value": 0.925, "source": HOSTILE}
    rows[-1]["reported"] = {task_names[1]: [published]}
    columns = [
        {"task": task, "metric": "acc", "filter": "none", "higher_is_better": at != 2, "scale_high": 1.0}
        for at, task in enumerate(task_names)
    ]
    verdicts = [f"{names[0]} beats {names[-1]} on 3 of 4 tasks"]
    return {"columns": columns, "rows": rows, "verdicts": verdicts, "left_out": ["2 results over a part"]}


def difference(verdict: str = "better", **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "verdict": verdict, "value": 0.8, "difference": 0.05, "low": 0.02, "high": 0.08, "gain": 0.05,
        "p_value": 0.001, "adjusted": 0.003, "wins": 1200, "losses": 40, "ties": 10, "n": 1250, "detectable": 0.03,
        "needed": 900, "method": "exact McNemar", "reason": None, "flagged": [],
    }  # fmt: skip
    return made | fields


def comparison(models: Mapping[str, str] | None = None) -> dict[str, Any]:
    names = models or {"a" * 32: "baseline v1", "b" * 32: HOSTILE}
    runs = [run for run in names if run != next(iter(names))]
    nothing = dict.fromkeys(difference(), None) | {"verdict": "no result"}
    incomparable = nothing | {"verdict": "not comparable", "value": 0.7, "reason": f"the documents differ {HOSTILE}"}
    told = [difference(), difference("no difference shown", difference=-0.01, low=-0.04, high=0.02), incomparable]
    told += [difference("worse", difference=-5.0, low=-8.0, high=-2.0, flagged=["score_moved"]), nothing]
    return {
        "baseline": next(iter(names)),
        "models": dict(names),
        "level": 0.95,
        "counts": {run: {"better": 1, "no difference shown": 1, "not comparable": 1} for run in runs},
        "tasks": [
            {
                "task": f"task_{at}", "metric": "acc", "filter": "none", "higher_is_better": at != 1,
                "baseline": {"value": 0.75, "low": 0.7, "high": 0.8, "n": 1250},
                "candidates": dict.fromkeys(runs, one),
            }
            for at, one in enumerate(told)
        ],
        "only": {run: [f"other {HOSTILE}"] for run in runs},
    }  # fmt: skip


def gate(**fields: Any) -> dict[str, Any]:
    group = {"dimension": "kind", "value": HOSTILE, "outcome": "inconclusive", "reason": "too few documents to say"}
    numbers = {"gain": 0.01, "low": -0.02, "high": 0.04}
    task = {
        "task": "task_0", "outcome": "pass", "reason": "the gain lies …", "weight": 1.0, "metric": "acc",
        "filter": "none", "higher_is_better": True, "baseline": 0.8, "candidate": 0.81, "margin": 0.03, "n": 900,
        "unpaired": 0, "flags": [], "groups": [], **numbers,
    }  # fmt: skip
    empty = dict.fromkeys(("metric", "filter", "baseline", "candidate", "margin", "n", "gain", "low", "high"))
    missing = task | empty | {"task": HOSTILE, "outcome": "inconclusive", "reason": f"no result {HOSTILE}"}
    failed = task | {"task": "task_2", "outcome": "fail", "reason": "lost", "gain": -0.2, "low": -0.3, "high": -0.1}
    failed["groups"] = [
        group | numbers | {"n": 12},
        group | numbers | {"n": 5, "value": "tiny", "outcome": None, "reason": "fewer than 10"},
        group | numbers | {"n": 50, "value": "chart", "outcome": "pass"},
    ]
    made: dict[str, Any] = {
        "outcome": "fail", "exit_code": 1, "level": 0.95, "lenient_slices": False,
        "counts": {"pass": 1, "inconclusive": 1, "fail": 1},
        "group_counts": {"pass": 1, "inconclusive": 1, "fail": 0, "not judged": 1},
        "mean": {"outcome": "pass", "reason": "fine", "counted": 2, "of": 3, "margin": 0.03, **numbers},
        "tasks": [task, missing, failed],
        "candidate": {"asked": "models:/m/2", "model": "m v2", "version": {"name": "m", "version": "2"}, "runs": {}},
        "baseline": {"asked": "models:/m@champion", "model": HOSTILE, "version": None, "runs": {}},
        "suite": {"name": "documents", "revision": 3}, "by": "ada", "at": "2026-01-02T03:04:05+00:00", "asked": {},
        "recorded": ["lmms.gate.documents", "lmms.gate.documents.details"],
    }  # fmt: skip
    return made | fields
