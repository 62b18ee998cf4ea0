"""Scores of groups of documents against each other. Pure."""

from mlflow_lmms.analysis.slice_guard import SliceJudgement, judge_slices

__all__ = ["SliceJudgement", "judge_slices"]
