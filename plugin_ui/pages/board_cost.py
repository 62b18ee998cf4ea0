"""What a model's results have cost, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_lmms.board_costs import Cost


@dataclass(frozen=True)
class CostCell:
    """What a model's results have cost, in words. `best`: no other model is as good for less."""

    text: str
    note: str
    best: bool


def cost_cell(cost: Cost | None) -> CostCell:
    """The words; None where the model has no result of our own."""
    if cost is None or (cost.gpu_hours is None and cost.tokens is None):
        return CostCell("–", "not recorded", False)
    hours = "–" if cost.gpu_hours is None else f"{cost.gpu_hours:.2f} GPU-h"
    tokens = "tokens not counted" if cost.tokens is None else f"{cost.tokens:,} tokens"
    known = "" if cost.runs_known == cost.runs else f" · known of {cost.runs_known} of {cost.runs} runs"
    return CostCell(hours, tokens + known, cost.on_front is True)
