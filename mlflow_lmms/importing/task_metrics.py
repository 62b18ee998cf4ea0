"""The metrics of an imported task: what its results file says, and what its samples say of that.

Pure. Owns what is known of each metric and what the policy for errored samples makes of it; the rules are
`mlflow_lmms.reading`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.importing.results_file import TaskEntry
from mlflow_lmms.reading.errored import ErroredPolicy, PolicyOutcome, apply_policy
from mlflow_lmms.reading.metric_key import MetricKey, ReportedMetric
from mlflow_lmms.reading.result_warnings import MetricFacts
from mlflow_lmms.reading.sample_scores import ScoreReading
from mlflow_lmms.reading.scale import MetricScale, direction, metric_scale
from mlflow_lmms.reading.score_sums import ScoreSums

NOTHING_READ = ScoreReading(None, None, ScoreSums(), 0)


@dataclass(frozen=True)
class ImportedMetric:
    """One metric under one filter; `counted` sums up the scores that the policy lets count."""

    reported: ReportedMetric
    reading: ScoreReading
    outcome: PolicyOutcome
    counted: ScoreSums
    scale: MetricScale
    higher_is_better: bool | None
    direction_reason: str
    aggregation: str
    missing: int
    errored: int
    looked_at: bool
    clusters: tuple[int, float | None] | None = None

    @property
    def key(self) -> MetricKey:
        """Its name and filter."""
        return self.reported.key

    def document(self) -> dict[str, Any]:
        """Return the metric as a task's result file says it."""
        factor = self.reading.factor
        sums = self.counted if factor is not None else ScoreSums()
        corpus = self.reported.value is not None and self.looked_at
        level = "sample" if factor is not None else "corpus" if corpus else "none"
        return {
            **self.key._asdict(),
            "value": self.outcome.value,
            "native": self.reported.value,
            "stderr": self.reported.stderr,
            "factor": factor,
            "per_sample": factor is not None,
            "level": level,
            "scale": self.scale._asdict(),
            "higher_is_better": self.higher_is_better,
            "direction_reason": self.direction_reason,
            "aggregation": self.aggregation,
            "n": self.outcome.n,
            "missing": self.missing,
            "errored": self.errored,
            "mean": sums.mean if sums.n else None,
            "sd": sums.sd,
            "binary": sums.n > 0 and sums.binary,
            "clusters": self.clusters[0] if self.clusters else None,
            "clustered_stderr": self.clusters[1] if self.clusters else None,
            "note": self.outcome.note or self.reported.note or (None if self.looked_at else "there are no samples"),
        }

    def facts(self) -> MetricFacts:
        """Return what the warnings look at."""
        sums = self.reading.sums
        return MetricFacts(
            key=self.key,
            value=self.reported.value,
            factor=self.reading.factor,
            n=sums.n,
            mean=sums.mean if sums.n else None,
            binary=sums.n > 0 and sums.binary,
            all_zero=sums.all_zero,
            aggregation=self.aggregation,
            scale=self.scale.high,
            higher_is_better=self.higher_is_better,
            note=self.reported.note,
        )


@dataclass(frozen=True)
class MetricEvidence:
    """What the samples say of one metric; `rows` have a value of any kind, of `documents`."""

    reading: ScoreReading = NOTHING_READ
    sound: ScoreSums | None = None
    errored: ScoreSums | None = None
    errored_rows: int = 0
    rows: int = 0
    documents: int = 0
    clusters: tuple[int, float | None] | None = None


def import_metric(
    entry: TaskEntry, reported: ReportedMetric, evidence: MetricEvidence, policy: ErroredPolicy
) -> ImportedMetric:
    """Put together what is known of one metric."""
    name = reported.key.metric
    declared = entry.higher_is_better.get(name, _declaration(entry.config, name).get("higher_is_better"))
    better, reason = direction(name, declared if isinstance(declared, bool) else None)
    reading = evidence.reading
    sound, errored = evidence.sound or ScoreSums(), evidence.errored or ScoreSums()
    outcome = apply_policy(
        policy, reported.value, reading.factor, sound, errored, evidence.errored_rows, evidence.documents, better
    )
    applied = policy.policy != "as_scored" and outcome.note is None and evidence.errored_rows > 0
    aggregation = aggregation_of(entry.config, name)
    # A results file without samples still says over how many documents its numbers are.
    n = outcome.n if reading.factor is not None else evidence.rows or (entry.documents or 0)
    return ImportedMetric(
        reported=reported,
        reading=reading,
        outcome=outcome._replace(n=n),
        counted=_counted(sound, errored, evidence.errored_rows, policy) if applied else sound.merged(errored),
        scale=metric_scale(
            entry.name, name, reported.value, reading.factor, None, sums=reading.sums, aggregation=aggregation
        ),
        higher_is_better=better,
        direction_reason=reason,
        aggregation=aggregation,
        missing=max(0, evidence.documents - (reading.sums.n if reading.factor is not None else evidence.rows)),
        errored=evidence.errored_rows,
        looked_at=evidence.documents > 0,
        clusters=evidence.clusters if reading.factor is not None else None,
    )


def _counted(sound: ScoreSums, errored: ScoreSums, rows: int, policy: ErroredPolicy) -> ScoreSums:
    if policy.policy == "drop":
        return sound
    return sound.merged(ScoreSums(n=rows, least=0.0, most=0.0))


def aggregation_of(config: Mapping[str, Any], metric: str) -> str:
    """Name of lmms-eval's own aggregation, ``custom`` for a task's function, empty where nothing is said."""
    told = _declaration(config, metric).get("aggregation")
    if not isinstance(told, str):
        return ""
    return "custom" if told.startswith("<") else told[:100]


def _declaration(config: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    listed = config.get("metric_list")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("metric") == metric:
            return item
    return {}
