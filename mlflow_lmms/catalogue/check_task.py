"""Checks the keys and metrics of one task file against what lmms-eval 0.7.3 takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from mlflow_lmms.catalogue.merged_document import MergedDocument
from mlflow_lmms.catalogue.metrics import BUILT_IN_AGGREGATIONS, BUILT_IN_METRICS, DEFAULT_METRICS
from mlflow_lmms.catalogue.yaml_walk import FUNCTION

OUTPUT_TYPES = (
    "generate_until", "generate_until_agentic", "generate_until_multi_round", "generate_visual_cot", "loglikelihood",
    "multiple_choice",
)  # fmt: skip
TASK_KEYS = frozenset(
    """task task_alias tag group group_alias dataset_path dataset_name dataset_kwargs training_split validation_split
    test_split fewshot_split full_docs process_results_use_image process_docs doc_to_visual doc_to_text doc_to_target
    doc_to_choice doc_to_messages process_results use_prompt description target_delimiter fewshot_delimiter
    fewshot_config num_fewshot metric_list output_type generation_kwargs repeats filter_list should_decontaminate
    doc_to_decontamination_query cluster_key score_key metadata lmms_eval_specific_kwargs
    model_specific_generation_kwargs model_specific_target_kwargs reasoning_tags auto_strip_thinking
    include class""".split()  # noqa: SIM905 (a list to read)
)
_NEEDED = {
    "dataset_path": "name a data set of the Hub, or `json` with dataset_kwargs: data_files",
    "doc_to_text": "say what the model is asked: a column, a text with {{column}}, or a !function",
    "doc_to_target": "say what the right answer is: a column, a text with {{column}}, or a !function",
}


def check_task(merged: MergedDocument) -> None:
    """Report what lmms-eval would not take, or would take otherwise than it reads."""
    config = merged.config
    for key in config:
        if key not in TASK_KEYS:
            near = difflib.get_close_matches(str(key), TASK_KEYS, n=1)
            remedy = f"did you mean {near[0]}?" if near else "remove it, or put it under metadata"
            merged.report([key], "a key that lmms-eval knows: it refuses others", repr(key), remedy)
    if "class" in config:
        return
    for key, remedy in _NEEDED.items():
        if config.get(key) is None:
            merged.report([], f"the key {key}", "none", remedy)
    if config.get("test_split") is None and config.get("validation_split") is None:
        merged.report([], "test_split or validation_split", "neither", "name the split that is evaluated")
    if config.get("group") is not None and config.get("tag") is not None:
        merged.report(["group"], "`tag` or `group`", "both", "keep `tag`; a group is a file of its own")
    _check_output_type(merged)
    _check_metrics(merged)


def _check_output_type(merged: MergedDocument) -> None:
    config = merged.config
    output_type = str(config.get("output_type") or "generate_until")
    if output_type not in OUTPUT_TYPES:
        near = difflib.get_close_matches(output_type, OUTPUT_TYPES, n=1)
        remedy = f"did you mean {near[0]}?" if near else "generate_until suits most"
        merged.report(["output_type"], ", ".join(OUTPUT_TYPES), repr(output_type), remedy)
    if output_type == "multiple_choice":
        if config.get("process_results") is None:
            merged.report(
                ["output_type"],
                "process_results with multiple_choice",
                "none: lmms-eval 0.7.3's built-in scoring of multiple_choice raises, and no score comes",
                "add process_results: a function of (doc, results) that reads the likelihoods, or use generate_until",
            )
        if config.get("doc_to_choice") is None:
            merged.report(["output_type"], "doc_to_choice with multiple_choice", "none", "list the choices")
    if (
        "generate_until" not in output_type
        and config.get("generation_kwargs") is not None
        and output_type in OUTPUT_TYPES
    ):
        came = f"generation_kwargs with {output_type}"
        merged.report(["generation_kwargs"], "none: nothing is generated", came, "remove it", warn=True)


def _check_metrics(merged: MergedDocument) -> None:
    config = merged.config
    entries = config.get("metric_list")
    output_type = str(config.get("output_type") or "generate_until")
    if entries is None:
        default = ", ".join(DEFAULT_METRICS.get(output_type, ()))
        if config.get("process_results") is not None or not default:
            remedy = f"list what process_results returns; without a list lmms-eval takes {default or 'nothing'}"
            merged.report(["process_results"], "metric_list with process_results", "none", remedy)
        return
    if not isinstance(entries, list) or not entries:
        merged.report(["metric_list"], "a list of metrics", repr(entries)[:80], "write `- metric: NAME` lines")
        return
    names: set[str] = set()
    for at, entry in enumerate(entries):
        if not isinstance(entry, dict) or not entry.get("metric"):
            merged.report(["metric_list", at], "`metric: NAME`", repr(entry)[:80], "give each entry a metric")
            continue
        _check_metric(merged, at, entry)
        if (name := str(entry["metric"])) in names:
            merged.report(["metric_list", at, "metric"], "each metric once", repr(name), "remove one")
        names.add(name)


def _check_metric(merged: MergedDocument, at: int, entry: Mapping[str, Any]) -> None:
    name, aggregation = str(entry["metric"]), entry.get("aggregation")
    known = name in BUILT_IN_METRICS or name.startswith(FUNCTION)
    if merged.config.get("process_results") is None and not known:
        merged.report(
            ["metric_list", at, "metric"],
            f"a built-in metric, since there is no process_results: {', '.join(sorted(BUILT_IN_METRICS))}",
            repr(name),
            "use one of them, or add process_results that returns it",
        )
    if aggregation is None:
        came = f"none for {name!r}"
        merged.report(
            ["metric_list", at], "an aggregation", came, "add `aggregation: mean`", warn=name in BUILT_IN_METRICS
        )
    elif not str(aggregation).startswith(FUNCTION) and aggregation not in BUILT_IN_AGGREGATIONS:
        expected = f"{', '.join(sorted(BUILT_IN_AGGREGATIONS))} or a !function"
        merged.report(["metric_list", at, "aggregation"], expected, repr(aggregation), "mean suits most")
    if "higher_is_better" not in entry and name not in BUILT_IN_METRICS:
        remedy = "add `higher_is_better: true`: without it no winner can be told"
        merged.report(["metric_list", at], "higher_is_better", f"none for {name!r}", remedy, warn=True)
