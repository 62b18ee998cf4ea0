"""What may be wrong with a task's result: named warnings with their evidence.

Pure. Owns the names, what they rest on, and which of them keep a result from being ranked. The facts are gathered row
by row in `sample_facts`; when they call for a warning stands in `warning_rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from mlflow_lmms.reading.chance import ChanceFacts
from mlflow_lmms.reading.metric_key import MetricKey


class WarningName(StrEnum):
    """The classes of warnings."""

    NO_LOCAL_SCORE = "no_local_score"
    JUDGE_FAILED = "judge_failed"
    EMPTY_RESPONSES = "empty_responses"
    IDENTICAL_RESPONSES = "identical_responses"
    BELOW_CHANCE = "below_chance"
    ROWS_NOT_DOCUMENTS = "rows_not_documents"
    DUPLICATE_IDS = "duplicate_ids"
    AGGREGATE_NOT_REPRODUCIBLE = "aggregate_not_reproducible"
    PARTIAL_RUN = "partial_run"
    SMALLEST_VALUE_CHOSEN = "smallest_value_chosen"
    SCORE_MOVED = "score_moved"
    PRIMARY_NOT_FOUND = "primary_not_found"
    SAMPLES_MISSING = "samples_missing"
    CONSTANT_TARGET = "constant_target"
    UNKNOWN_SCALE = "unknown_scale"


# The number itself is sound under these; only something beside it is missing or odd.
_STILL_RANKED = frozenset(
    (
        WarningName.PRIMARY_NOT_FOUND,
        WarningName.SAMPLES_MISSING,
        WarningName.CONSTANT_TARGET,
        WarningName.UNKNOWN_SCALE,
    )
)


def ranked(name: str) -> bool:
    """Whether a result with this warning may still be ranked unasked; an unknown name's may not."""
    return name in _STILL_RANKED


@dataclass(frozen=True)
class ResultWarning:
    """One warning: a sentence, how many of how many it concerns, and examples."""

    name: WarningName
    message: str
    count: int | None = None
    of: int | None = None
    examples: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the warning as JSON holds it."""
        return {**asdict(self), "name": self.name.value, "examples": list(self.examples)}


@dataclass(frozen=True)
class Evidence:
    """How many samples show something, of how many, and the first few of them."""

    count: int = 0
    of: int = 0
    examples: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of samples that show it."""
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True)
class MetricFacts:
    """One metric as it was read.

    `n`, `mean`, `binary` and `all_zero` speak of its per-sample scores, or where the aggregate does not follow from
    any (`factor` None) of its plain numbers, as `ScoreReading.sums` does; `mean` is None without any.
    """

    key: MetricKey
    value: float | None
    factor: float | None
    n: int = 0
    mean: float | None = None
    binary: bool = False
    all_zero: bool = False
    aggregation: str | None = None
    scale: float | None = None
    higher_is_better: bool | None = None
    note: str | None = None


@dataclass
class TaskFacts:
    """All that the rules look at. What is not known stays None, or evidence of nothing."""

    task: str
    output_type: str | None = None
    metrics: Sequence[MetricFacts] = ()
    primary: MetricKey | None = None
    wanted: str | None = None
    wanted_found: bool = True
    samples_read: bool = True
    documents: int = 0
    expected: int | None = None
    total: int | None = None
    limit: float | None = None
    offset: int = 0
    duplicates: Evidence = field(default_factory=Evidence)
    empty: Evidence = field(default_factory=Evidence)
    identical: Evidence = field(default_factory=Evidence)
    constant_target: Evidence = field(default_factory=Evidence)
    judge: bool | None = None
    judge_failures: Evidence = field(default_factory=Evidence)
    blank_verdicts: Evidence = field(default_factory=Evidence)  # of the samples with a verdict, empty or not
    chance: ChanceFacts | None = None
    scale_matters: bool = False

    @property
    def primary_facts(self) -> MetricFacts | None:
        """The primary metric's facts."""
        return next((facts for facts in self.metrics if facts.key == self.primary), None)
