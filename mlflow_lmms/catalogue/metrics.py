"""The metrics of a task file: what each is called, how it is aggregated, which way is better, whether a number comes.

Knows lmms-eval 0.7.3's built-in metrics and defaults.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_lmms.catalogue.derived import Derived
from mlflow_lmms.catalogue.source_text import Definition, SourceTexts
from mlflow_lmms.catalogue.yaml_walk import FUNCTION, TaskFile, function_reference

#: Built-in metric → its aggregation and whether higher is better.
BUILT_IN_METRICS = {
    "acc": ("mean", True),
    "acc_mutual_info": ("mean", True),
    "acc_norm": ("mean", True),
    "anls": ("mean", True),
    "bits_per_byte": ("bits_per_byte", False),
    "bleu": ("bleu", True),
    "brier_score": ("brier_score", False),
    "bypass": ("bypass", None),
    "byte_perplexity": ("weighted_perplexity", False),
    "chrf": ("chrf", True),
    "exact_match": ("mean", True),
    "f1": ("f1", True),
    "mcc": ("matthews_corrcoef", True),
    "perplexity": ("perplexity", False),
    "ter": ("ter", True),
    "word_perplexity": ("weighted_perplexity", False),
}
BUILT_IN_AGGREGATIONS = frozenset(
    """bypass mean median perplexity weighted_perplexity bits_per_byte f1 matthews_corrcoef bleu chrf ter
    brier_score""".split()  # noqa: SIM905 (a list to read)
)
DEFAULT_METRICS = {
    "loglikelihood": ("perplexity", "acc"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
    "generate_until_multi_round": ("exact_match",),
    "generate_until_agentic": ("exact_match",),
}
_RETURN = re.compile(r"^[ \t]+(?:return|yield)\b[ \t]*([^\n]*)", re.MULTILINE)


class CatalogueMetric(NamedTuple):
    """One metric. `higher_is_better` None: not stated, or neither. `number` False: it yields no score by itself."""

    name: str
    aggregation: str
    higher_is_better: bool | None
    stated_by: str
    number: bool


def read_metrics(file: TaskFile, output_type: str, sources: SourceTexts) -> tuple[CatalogueMetric, ...]:
    """The metrics of a task; lmms-eval's defaults for its output type where it lists none."""
    listed = file.config.get("metric_list")
    if not isinstance(listed, list):
        names = DEFAULT_METRICS.get(output_type, ())
        return tuple(_metric({"metric": name}, file, sources, "default of the output type") for name in names)
    return tuple(_metric(entry, file, sources, "metric_list") for entry in listed if isinstance(entry, dict))


def _metric(entry: dict[str, Any], file: TaskFile, sources: SourceTexts, stated_by: str) -> CatalogueMetric:
    name = str(entry.get("metric"))
    if name.startswith(FUNCTION):
        name = name.rpartition(".")[2]
    default, better = BUILT_IN_METRICS.get(name, ("mean", None))
    aggregation = str(entry.get("aggregation", default))
    direction = entry.get("higher_is_better", better)
    return CatalogueMetric(
        name=name,
        aggregation=aggregation.removeprefix(FUNCTION),
        higher_is_better=direction if isinstance(direction, bool) else None,
        stated_by=stated_by if "higher_is_better" in entry or better is None else f"{stated_by}; built-in direction",
        number=_yields_number(aggregation, file.origins.get("metric_list", file.path), sources),
    )


def _yields_number(aggregation: str, yaml_path: Path, sources: SourceTexts) -> bool:
    if aggregation == "bypass":
        return False
    reference = function_reference(aggregation, yaml_path)
    definition = None if reference is None else sources.definition(reference)
    return definition is None or returns_something(definition)


def returns_something(definition: Definition) -> bool:
    """Whether a function returns anything but None; what is no plain `def` may."""
    if not re.match(r"(?:async )?def ", definition.text):
        return True
    return any(value.strip() not in ("", "None") for value in _RETURN.findall(definition.text))


def submission_only(metrics: tuple[CatalogueMetric, ...]) -> Derived:
    """Whether a run ends without a score, with a file for a benchmark's own server instead."""
    silent = [metric for metric in metrics if not metric.number]
    if metrics and len(silent) == len(metrics):
        how = ", ".join(f"{metric.name} by {metric.aggregation}" for metric in silent[:3])
        return Derived(True, f"no metric yields a number: {how}", 0.85)
    if silent:
        names = ", ".join(metric.name for metric in silent)
        return Derived(
            False, f"{len(metrics) - len(silent)} of {len(metrics)} metrics yield a number, not {names}", 0.85
        )
    return Derived(False, "its metrics yield numbers" if metrics else "no metric is listed", 0.8)
