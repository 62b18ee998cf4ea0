"""When the facts of a task's result call for a warning, and in which words.

Pure. Owns the thresholds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

from mlflow_lmms.reading.chance import at_most_by_chance
from mlflow_lmms.reading.judge_verdict import is_of_judge
from mlflow_lmms.reading.result_warnings import Evidence, MetricFacts, ResultWarning, TaskFacts, WarningName
from mlflow_lmms.reading.sample_scores import reproduces

_EMPTY_SHARE = 0.2
_IDENTICAL_SHARE = 0.98
_JUDGE_FAILURE_SHARE = 0.01
_FEWEST_SAMPLES = 10  # below it, "all samples" says little
_SIGNIFICANT = 0.001
_KNOWN_OPTIONS_SHARE = 0.9
_MANY_OPTIONS = 10  # the most that multiple-choice benchmarks commonly have
_AT_ITS_BEST = 0.98
_PRINTED_DIGITS = (2, 3, 4)
_BUILT_IN_MEANS = frozenset(("mean", "acc_all"))
_SHARE_OF_RIGHT = re.compile(r"(?:^|[^a-z])(?:acc|accuracy|exact_match|em|correct)(?:$|[^a-z])", re.IGNORECASE)


def task_warnings(facts: TaskFacts) -> list[ResultWarning]:
    """Return the warnings that the facts call for, in the order of `WarningName`."""
    found = [warning for rule in _RULES for warning in rule(facts)]
    order = list(WarningName)
    return sorted(found, key=lambda warning: order.index(warning.name))


def expected_documents(total: int | None, limit: float | None, offset: int = 0) -> int | None:
    """Return how many documents a run must have rows of (`limit` below 1 is a share, as lmms-eval reads it)."""
    if total is None:
        return None
    left = max(0, total - offset)
    if limit is None or limit < 0:
        return left
    return min(left, math.ceil(total * limit) if limit < 1 else int(limit))


def _warning(name: WarningName, message: str, evidence: Evidence) -> ResultWarning:
    return ResultWarning(name, message, evidence.count, evidence.of, evidence.examples)


def _no_local_score(facts: TaskFacts) -> Iterator[ResultWarning]:
    if facts.primary is not None:
        return
    notes = tuple(f"{own.key.metric}: {own.note}" for own in facts.metrics if own.note)
    message = "No metric of this task has a number that can stand for it; it may need a submission or a judge."
    yield ResultWarning(WarningName.NO_LOCAL_SCORE, message, examples=notes[:3])


def _judge_failed(facts: TaskFacts) -> Iterator[ResultWarning]:
    failures = facts.judge_failures
    if failures.share > _JUDGE_FAILURE_SHARE:
        message = (
            f"The judge failed for {failures.count} of {failures.of} samples: an error, or -1 in place of a mark."
        )
        yield _warning(WarningName.JUDGE_FAILED, message, failures)
        return
    blank = facts.blank_verdicts
    if blank.count >= _FEWEST_SAMPLES and blank.share == 1.0:
        message = f"All {blank.count} samples that needed the judge's verdict have an empty one."
        yield _warning(WarningName.JUDGE_FAILED, message, blank)
        return
    few = 0 < (facts.documents or facts.expected or 0) < _FEWEST_SAMPLES
    judged = not few and (facts.judge or any(is_of_judge(own.key.metric) for own in facts.metrics))
    zeros = [own for own in facts.metrics if judged and _is_all_zero(own) and _needs_judge(own, facts)]
    if zeros:
        named = " and ".join(own.key.metric for own in zeros)
        n = max(own.n for own in zeros) or None
        message = f"The score is 0 for {named} in a task that a judge scores: the judge probably never answered."
        yield ResultWarning(WarningName.JUDGE_FAILED, message, n, n, tuple(own.key.text for own in zeros)[:3])


def _needs_judge(own: MetricFacts, facts: TaskFacts) -> bool:
    return own.key == facts.primary or is_of_judge(own.key.metric)


def _is_all_zero(own: MetricFacts) -> bool:
    return own.value == 0.0 and own.higher_is_better is not False and (own.all_zero or own.n == 0)


def _empty_responses(facts: TaskFacts) -> Iterator[ResultWarning]:
    if facts.empty.share > _EMPTY_SHARE:
        message = f"{facts.empty.count} of {facts.empty.of} samples have no answer: empty, or a failed request."
        yield _warning(WarningName.EMPTY_RESPONSES, message, facts.empty)


def _identical_responses(facts: TaskFacts) -> Iterator[ResultWarning]:
    same = facts.identical
    if same.of < _FEWEST_SAMPLES or same.share < _IDENTICAL_SHARE or _at_its_best(facts.primary_facts):
        return
    message = f"{same.count} of {same.of} samples have the very same response."
    yield _warning(WarningName.IDENTICAL_RESPONSES, message, same)


def _at_its_best(own: MetricFacts | None) -> bool:
    """Whether one response for all is right for all, as a refusal is where every request is harmful."""
    if own is None or own.value is None or not own.scale or own.higher_is_better is not True:
        return False
    return own.value / own.scale >= _AT_ITS_BEST


def _below_chance(facts: TaskFacts) -> Iterator[ResultWarning]:
    own = facts.primary_facts
    if own is None or own.value is None or own.higher_is_better is not True or own.scale not in (1.0, 100.0):
        return
    share = own.value / own.scale
    if facts.chance is not None:
        yield from _below_known_chance(facts, own, share)
    elif facts.output_type == "multiple_choice" and not facts.samples_read:
        n = facts.expected or 0
        right = math.ceil(share * n)
        if n and share < 1 / _MANY_OPTIONS and at_most_by_chance(right, n, 1 / _MANY_OPTIONS) < _SIGNIFICANT:
            message = f"{own.key.metric} is {share:.3g}, less than guessing gives even among {_MANY_OPTIONS} options."
            yield ResultWarning(WarningName.BELOW_CHANCE, message, right, n)


def _below_known_chance(facts: TaskFacts, own: MetricFacts, share: float) -> Iterator[ResultWarning]:
    chance = facts.chance
    if chance is None or own.factor is None or chance.documents < _KNOWN_OPTIONS_SHARE * own.n:
        return
    guessing = chance.expected / chance.documents
    right = math.ceil(share * own.n - 1e-9)
    if share < guessing and at_most_by_chance(right, own.n, guessing) < _SIGNIFICANT:
        message = f"{own.key.metric} is {share:.3g}, clearly less than the {guessing:.3g} that guessing gives."
        yield ResultWarning(WarningName.BELOW_CHANCE, message, right, own.n)


def _smallest_value_chosen(facts: TaskFacts) -> Iterator[ResultWarning]:
    chance = facts.chance
    if chance is None or chance.picks < _FEWEST_SAMPLES or chance.largest <= chance.smallest:
        return
    smallest, largest = chance.smallest / chance.picks, chance.largest / chance.picks
    # A document is right under one of the two picks only, so equal picks would split these like a coin.
    if at_most_by_chance(chance.smallest, chance.smallest + chance.largest, 0.5) >= _SIGNIFICANT:
        return
    for own in facts.metrics:
        if own.binary and own.mean is not None and own.n == chance.picks and reproduces(smallest, own.mean):
            message = (
                f"{own.key.metric} counts the option with the smallest likelihood as the answer ({smallest:.3g}); "
                f"the largest would give {largest:.3g}. The adapter and the scoring disagree on the sign."
            )
            yield ResultWarning(WarningName.SMALLEST_VALUE_CHOSEN, message, chance.largest, chance.picks)
            return


def _rows_not_documents(facts: TaskFacts) -> Iterator[ResultWarning]:
    if facts.samples_read and facts.expected is not None and facts.documents != facts.expected:
        message = f"There are samples of {facts.documents} documents, of {facts.expected} expected."
        yield ResultWarning(WarningName.ROWS_NOT_DOCUMENTS, message, facts.documents, facts.expected)


def _duplicate_ids(facts: TaskFacts) -> Iterator[ResultWarning]:
    if facts.duplicates.count:
        message = f"{facts.duplicates.count} samples repeat the id of an earlier one."
        yield _warning(WarningName.DUPLICATE_IDS, message, facts.duplicates)


def _aggregate_not_reproducible(facts: TaskFacts) -> Iterator[ResultWarning]:
    wrong = [own for own in facts.metrics if _should_be_mean(own) and not _agrees(own)]
    if wrong:
        named = ", ".join(own.key.metric for own in wrong)
        message = f"The recorded {named} is not the mean of the samples' scores."
        examples = tuple(f"{own.key.text}: {own.value:g} recorded, samples give {own.mean:g}" for own in wrong)
        yield ResultWarning(
            WarningName.AGGREGATE_NOT_REPRODUCIBLE, message, len(wrong), len(facts.metrics), examples[:3]
        )


def _should_be_mean(own: MetricFacts) -> bool:
    """Whether the aggregate is a mean by lmms-eval's own word, or by name over plain right-or-wrong scores."""
    if own.value is None or own.mean is None or own.factor is not None:
        return False
    return own.aggregation in _BUILT_IN_MEANS or (own.binary and _SHARE_OF_RIGHT.search(own.key.metric) is not None)


def _agrees(own: MetricFacts) -> bool:
    """Whether the aggregate is the mean as coarsely as some tasks round it."""
    assert own.mean is not None
    return any(round(own.mean * factor, digits) == own.value for factor in (1, 100) for digits in _PRINTED_DIGITS)


def _partial_run(facts: TaskFacts) -> Iterator[ResultWarning]:
    expected = expected_documents(facts.total, facts.limit, facts.offset)
    if expected is None or facts.total is None:
        if (facts.limit is not None and facts.limit >= 0) or facts.offset:
            message = f"The run was limited (limit {facts.limit}, offset {facts.offset})."
            yield ResultWarning(WarningName.PARTIAL_RUN, message, facts.expected, None)
    elif expected < facts.total:
        message = f"The run was limited to {expected} of the task's {facts.total} documents."
        yield ResultWarning(WarningName.PARTIAL_RUN, message, expected, facts.total)


def _primary_not_found(facts: TaskFacts) -> Iterator[ResultWarning]:
    if facts.wanted and not facts.wanted_found:
        there = tuple(own.key.text for own in facts.metrics if own.value is not None)
        message = f"The wanted primary metric {facts.wanted!r} has no number here; the rules chose {_chosen(facts)}."
        yield ResultWarning(WarningName.PRIMARY_NOT_FOUND, message, examples=there[:3])


def _chosen(facts: TaskFacts) -> str:
    return facts.primary.metric if facts.primary else "none"


def _samples_missing(facts: TaskFacts) -> Iterator[ResultWarning]:
    if not facts.samples_read and any(own.value is not None for own in facts.metrics):
        message = "There are no samples: the score cannot be checked, and there is nothing to look at or to slice."
        yield ResultWarning(WarningName.SAMPLES_MISSING, message)


def _constant_target(facts: TaskFacts) -> Iterator[ResultWarning]:
    same = facts.constant_target
    if same.of >= _FEWEST_SAMPLES and same.count == same.of:
        message = f"Every sample has the same target, {same.examples[0]!r}: it is no ground truth to show."
        yield _warning(WarningName.CONSTANT_TARGET, message, same)


def _unknown_scale(facts: TaskFacts) -> Iterator[ResultWarning]:
    own = facts.primary_facts
    if facts.scale_matters and own is not None and own.value is not None and own.scale is None:
        message = f"The scale of {own.key.metric} is unknown, so {own.value:g} cannot be averaged with other scores."
        yield ResultWarning(WarningName.UNKNOWN_SCALE, message)


_RULES: tuple[Callable[[TaskFacts], Iterator[ResultWarning]], ...] = (
    _no_local_score,
    _judge_failed,
    _empty_responses,
    _identical_responses,
    _below_chance,
    _smallest_value_chosen,
    _rows_not_documents,
    _duplicate_ids,
    _aggregate_not_reproducible,
    _partial_run,
    _primary_not_found,
    _samples_missing,
    _constant_target,
    _unknown_scale,
)
