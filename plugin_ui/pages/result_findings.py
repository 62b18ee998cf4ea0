"""What is to be known beside the scores: warnings with their examples, errored samples, stability, groups. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_lmms.reading.result_warnings import WarningName, ranked
from mlflow_lmms.task_result import ErroredSamples, StabilityResult, TaskResult, TaskWarning
from plugin_ui.pages.evaluation_results import metric_label

_DOCUMENT = re.compile(r"document (\d{1,15})")
_POLICIES = {
    "as_scored": "they count as lmms-eval scored them",
    "drop": "they are left out of the scores",
    "wrong": "they count as wrong",
}
#: What a warning says of several tasks, where its sentence differs from task to task.
_SENTENCES: dict[str, str] = {
    WarningName.NO_LOCAL_SCORE: "No metric of these tasks has a number that can stand for it.",
    WarningName.JUDGE_FAILED: "The judge that scores these tasks failed, or probably never answered.",
    WarningName.EMPTY_RESPONSES: "Many samples have no answer: empty, or a failed request.",
    WarningName.IDENTICAL_RESPONSES: "Many samples have the very same response.",
    WarningName.BELOW_CHANCE: "The score is less than guessing gives.",
    WarningName.ROWS_NOT_DOCUMENTS: "There are not as many documents with samples as expected.",
    WarningName.DUPLICATE_IDS: "Samples repeat the id of an earlier one.",
    WarningName.AGGREGATE_NOT_REPRODUCIBLE: "The recorded score is not the mean of the samples' scores.",
    WarningName.PARTIAL_RUN: "The run was limited to a part of the documents.",
    WarningName.SMALLEST_VALUE_CHOSEN: "The option with the smallest likelihood counts as the answer: "
    "the adapter and the scoring disagree on the sign.",
    WarningName.SCORE_MOVED: "The score moved against an earlier run although the outputs did not.",
    WarningName.PRIMARY_NOT_FOUND: "The wanted primary metric has no number here; the rules chose another.",
    WarningName.SAMPLES_MISSING: "There are no samples: the scores cannot be checked.",
    WarningName.CONSTANT_TARGET: "Every sample has the same target: it is no ground truth to show.",
    WarningName.UNKNOWN_SCALE: "The scale of the score is unknown, so it cannot be averaged with other scores.",
}

#: (task, what the samples page is asked for) → its address.
SamplesUrl = Callable[..., str]


@dataclass(frozen=True)
class Example:
    """One example of a warning; `url` leads to the sample where it names one."""

    text: str
    url: str | None


@dataclass(frozen=True)
class Finding:
    """One warning in words. `counts` says how many of how many; `ranked` whether the result may be ranked all the
    same."""

    task: str
    name: str
    message: str
    counts: str
    ranked: bool
    examples: list[Example]

    @property
    def title(self) -> str:
        """Its class for people."""
        return warning_title(self.name)


@dataclass(frozen=True)
class FindingGroup:
    """All warnings of one class. `sentence` holds for each of them; `tasks` counts the tasks that have it."""

    sentence: str
    tasks: int
    findings: list[Finding]

    @property
    def title(self) -> str:
        """The class for people."""
        return self.findings[0].title

    @property
    def ranked(self) -> bool:
        """Whether results with it may be ranked all the same."""
        return self.findings[0].ranked


@dataclass(frozen=True)
class ErroredLine:
    """The errored samples of one task."""

    task: str
    counts: str
    reasons: str
    policy: str
    url: str


@dataclass(frozen=True)
class StabilityLine:
    """How steady the answers to one task are."""

    task: str
    label: str
    values: StabilityResult


@dataclass(frozen=True)
class GroupLine:
    """One metric of one of lmms-eval's groups, or why it has no value."""

    group: str
    label: str
    value: float | None
    n: int | None
    rule: str
    reason: str


def findings(results: Iterable[TaskResult], samples_url: SamplesUrl, *, offset: int = 0) -> list[Finding]:
    """Every warning of every task, first those that keep a result from being ranked.

    Args:
        offset: documents that the run left out at the start.
    """
    found = [_finding(result.task, warning, samples_url, offset) for result in results for warning in result.warnings]
    return sorted(found, key=lambda finding: finding.ranked)


def finding_groups(found: Iterable[Finding]) -> list[FindingGroup]:
    """The findings by class, in the order in which the classes first come."""
    classes: dict[str, list[Finding]] = {}
    for finding in found:
        classes.setdefault(finding.name, []).append(finding)
    return [
        FindingGroup(_sentence(name, members), len({finding.task for finding in members}), members)
        for name, members in classes.items()
    ]


def _sentence(name: str, members: list[Finding]) -> str:
    """What all say, else the sentence of their class; empty of a class that has none."""
    messages = {finding.message for finding in members}
    return messages.pop() if len(messages) == 1 else _SENTENCES.get(name, "")


def warning_title(name: str) -> str:
    """A warning's class for people."""
    return name.replace("_", " ").capitalize()


def warning_counts(warning: TaskWarning) -> str:
    """How many of how many it concerns; empty where that is not told."""
    if warning.count is None:
        return ""
    return f"{warning.count}" if warning.of is None else f"{warning.count} of {warning.of}"


def _finding(task: str, warning: TaskWarning, samples_url: SamplesUrl, offset: int) -> Finding:
    return Finding(
        task=task,
        name=warning.name,
        message=warning.message,
        counts=warning_counts(warning),
        ranked=ranked(warning.name),
        examples=[_example(task, text, samples_url, offset) for text in warning.examples],
    )


def _example(task: str, text: str, samples_url: SamplesUrl, offset: int) -> Example:
    named = _DOCUMENT.fullmatch(text)
    if named is None:
        return Example(text, None)
    # Rows stand in the order of the documents' numbers: of a whole run the page begins with this very one.
    return Example(text, samples_url(task=task, offset=max(0, int(named[1]) - offset)))


def errored_lines(results: Iterable[TaskResult], samples_url: SamplesUrl) -> list[ErroredLine]:
    """The tasks that have errored samples, or a policy for them."""
    return [_errored(result, result.errored, samples_url) for result in results if result.errored.count]


def _errored(result: TaskResult, errored: ErroredSamples, samples_url: SamplesUrl) -> ErroredLine:
    policy = _POLICIES.get(errored.policy, errored.policy)
    if errored.fail_above is not None:
        policy += f"; more than {errored.fail_above:.1%} would fail the task"
    return ErroredLine(
        task=result.task,
        counts=f"{errored.count} of {result.samples}",
        reasons=", ".join(f"{reason} {count}" for reason, count in sorted(errored.reasons.items())),
        policy=policy,
        url=samples_url(task=result.task, errored=1),
    )


def stability_lines(results: Iterable[TaskResult]) -> list[StabilityLine]:
    """The tasks whose documents were answered several times."""
    return [
        StabilityLine(result.task, metric_label(result.stability.metric, result.stability.filter), result.stability)
        for result in results
        if result.stability is not None
    ]


def group_lines(groups: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[GroupLine]:
    """The scores of groups as the run's results tell them."""
    return [_group(name, told) for name, scores in groups.items() for told in scores]


def _group(name: str, told: Mapping[str, Any]) -> GroupLine:
    value, n = told.get("value"), told.get("n")
    metric = str(told.get("metric") or "")
    return GroupLine(
        group=name,
        label=metric_label(metric, str(told.get("filter") or "none")) if metric else "",
        value=float(value) if isinstance(value, int | float) else None,
        n=n if isinstance(n, int) else None,
        rule=str(told.get("rule") or ""),
        reason=str(told.get("reason") or ""),
    )
