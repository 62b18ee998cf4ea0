"""What a finished task's samples say against its result: the errored ones, and the facts that warnings rest on.

Owns what the runner knows that files do not (raw likelihoods, whether the scoring may call a judge). Reasons,
policies and warnings are `mlflow_lmms.reading`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.reading.errored import BLANK_ANSWER, JUDGE_FAILED, REQUEST_FAILED, ErroredPolicy, is_scored
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.result_warnings import MetricFacts, ResultWarning, TaskFacts
from mlflow_lmms.reading.sample_facts import SampleFacts
from mlflow_lmms.reading.warning_rules import expected_documents, task_warnings
from worker.runner.failures import TaskFailure
from worker.runner.request import RunRequest
from worker.runner.task_code import may_call_judge
from worker.runner.task_metrics import Metric, Outcome

_UNANSWERED_REMEDY = (
    "A retry asks for the missing answers again, and for no others; see the log for errors of the model."
)
_JUDGE_REMEDY = (
    "Check the judge's key, address and model name in the worker's environment, and retry: the model's answers are "
    "kept."
)
_UNSCORED_REMEDY = "The task's scoring gave them no number; see the log. Answers are kept, so a retry only scores."
_CLASSES = {
    BLANK_ANSWER: ("scoring", _UNANSWERED_REMEDY),
    REQUEST_FAILED: ("scoring", _UNANSWERED_REMEDY),
    JUDGE_FAILED: ("judge", _JUDGE_REMEDY),
}


@dataclass(frozen=True)
class SampleEvidence:
    """Each sample's reason for being errored (None: sound), and the facts gathered on the way."""

    errored: list[str | None]
    facts: SampleFacts
    judged: bool

    @property
    def reasons(self) -> dict[str, int]:
        """How many samples are errored, by reason."""
        return dict(Counter(reason for reason in self.errored if reason is not None).most_common())


def gather(outcome: Outcome, primary: Metric | None) -> SampleEvidence:
    """Look at every sample once."""
    judged = may_call_judge(outcome.task)
    config, rows = outcome.task.config, outcome.rows
    facts = SampleFacts(str(config.output_type), judged=judged)
    requests = _requests(outcome.task)
    generates = str(config.output_type).startswith("generate")
    errored = []
    for at, doc_id in enumerate(rows.doc_ids):
        values = _values(rows.values, at, primary)
        errored.append(
            facts.add(
                doc_id,
                target=rows.raw_targets[at],
                responses=rows.responses[at] if generates else [own.resps[:1] for own in requests[doc_id]],
                values=values,
                input_text=rows.inputs[at],
                options=None if generates else len(requests[doc_id]),
                scored=is_scored(None if primary is None else primary.key.metric, values),
            )
        )
    return SampleEvidence(errored, facts, judged)


def refuse_too_many(evidence: SampleEvidence, policy: ErroredPolicy) -> None:
    """Fail the task when more samples are errored than its run allows."""
    reasons, samples, share = evidence.reasons, len(evidence.errored), policy.fail_above
    count = sum(reasons.values())
    if share is None or count <= share * samples:
        return
    told = ", ".join(f"{reason}: {number}" for reason, number in reasons.items())
    failure, remedy = _CLASSES.get(next(iter(reasons)), ("scoring", _UNSCORED_REMEDY))
    raise TaskFailure(
        failure, f"{count} of {samples} samples are errored ({told}); the run allows {share:.1%}. {remedy}"
    )


def warnings_of(
    outcome: Outcome,
    metrics: Mapping[MetricKey, Metric],
    primary: Metric | None,
    wanted_found: bool,
    evidence: SampleEvidence,
    request: RunRequest,
) -> list[ResultWarning]:
    """Return the warnings that the result calls for (`wanted_found`: no primary metric was asked for in vain)."""
    wanted = request.primary.get(outcome.name)
    total = len(outcome.task.eval_docs)
    facts = TaskFacts(
        task=outcome.name,
        output_type=str(outcome.task.config.output_type),
        metrics=[_metric_facts(metric) for metric in metrics.values()],
        primary=None if primary is None else primary.key,
        wanted=wanted,
        wanted_found=wanted_found,
        documents=len(outcome.rows.doc_ids),
        expected=expected_documents(total, request.limit, request.offset),
        total=total,
        limit=request.limit,
        offset=request.offset,
        judge=evidence.judged,
    )
    evidence.facts.fill(facts)
    return task_warnings(facts)


def _metric_facts(metric: Metric) -> MetricFacts:
    sums = metric.reading.sums
    return MetricFacts(
        key=metric.key,
        value=metric.reported.value,
        factor=metric.factor,
        n=sums.n,
        mean=sums.mean if sums.n else None,
        binary=sums.n > 0 and sums.binary,
        all_zero=sums.all_zero,
        aggregation=metric.aggregation,
        scale=metric.scale.high,
        higher_is_better=metric.higher_is_better,
        note=metric.reported.note,
    )


def _requests(task: Any) -> dict[int, list[Any]]:
    requests: dict[int, list[Any]] = {}
    for instance in sorted(task.instances, key=lambda instance: instance.idx):
        requests.setdefault(instance.doc_id, []).append(instance)
    return requests


def _values(columns: Mapping[MetricKey, Sequence[Any]], at: int, primary: Metric | None) -> dict[str, Any]:
    """What the scoring returned for a sample, by metric, the primary one first; of several filters its own."""
    values: dict[str, Any] = {}
    for key in sorted(columns, key=lambda key: primary is None or key != primary.key):
        if (value := columns[key][at]) is not None:
            values.setdefault(key.metric, value)
    return values
