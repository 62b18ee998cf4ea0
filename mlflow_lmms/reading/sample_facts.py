"""Gathers from a task's samples, row by row, the evidence that the warnings rest on.

Pure; constant memory but for one bit a document.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from mlflow_lmms.reading.chance import ChanceFacts, answer_index, likelihoods, prompt_options
from mlflow_lmms.reading.errored import (
    BLANK_ANSWER,
    REQUEST_FAILED,
    errored_reason,
    is_blank,
)
from mlflow_lmms.reading.judge_verdict import is_of_judge, judge_verdict
from mlflow_lmms.reading.result_warnings import Evidence, TaskFacts

_EXAMPLES = 3
_EXAMPLE_TEXT = 120
_BITMAP_IDS = 1 << 27  # 16 MiB at the most; lmms-eval's ids are 0, 1, 2, …
# A response that nearly all samples share is among the first different ones.
_RESPONSES_COUNTED = 256
_NO_TARGETS = frozenset(("", "None", "null", "[]", "{}", "nan", "N/A"))


class _Tally:
    """Counts samples that show something and keeps the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)

    def evidence(self, of: int) -> Evidence:
        return Evidence(self.count, of, tuple(self.examples))


class _SeenIds:
    """Knows which document ids it has seen, at one bit each for the usual ones."""

    def __init__(self) -> None:
        self.distinct = 0
        self._bits = bytearray()
        self._others: set[bytes] = set()

    def is_new(self, doc_id: Any) -> bool:
        new = self._mark_bit(doc_id) if _is_small(doc_id) else self._mark_digest(doc_id)
        self.distinct += new
        return new

    def _mark_bit(self, doc_id: int) -> bool:
        place, bit = doc_id >> 3, 1 << (doc_id & 7)
        if place >= len(self._bits):
            self._bits.extend(bytes(max(place + 1 - len(self._bits), len(self._bits) // 4)))
        new = not self._bits[place] & bit
        self._bits[place] |= bit
        return new

    def _mark_digest(self, doc_id: Any) -> bool:
        digest = _digest(_text(doc_id))
        new = digest not in self._others
        self._others.add(digest)
        return new


class SampleFacts:
    """Takes rows (one per document) in and fills the part of `TaskFacts` that comes from samples.

    `judged`: whether a judge scores this task (None: told by the names of its metrics).
    """

    def __init__(self, output_type: str | None, *, judged: bool | None = None) -> None:
        self._generates = output_type is None or output_type.startswith("generate")
        self._judged = bool(judged)
        self._ids = _SeenIds()
        self._rows = 0
        self._duplicates, self._empty = _Tally(), _Tally()
        self._judge_failures, self._blank_verdicts = _Tally(), _Tally()
        self._answered_verdicts = 0
        self._responses: Counter[bytes] = Counter()
        self._response_texts: dict[bytes, str] = {}
        self._target: str | None = None
        self._targets = 0
        self._chance = ChanceFacts()

    def add(
        self,
        doc_id: Any,
        *,
        target: Any,
        responses: Sequence[Any],
        values: Mapping[str, Any],
        input_text: str = "",
        options: int | None = None,
        scored: bool = True,
    ) -> str | None:
        """Take one document in; return why it is errored, None for a sound one.

        `responses`: the raw answers, or for likelihoods one [value, greedy] pair per option; `values`: what scoring
        returned, by metric; `options`: how many choices there are, where that is known; `scored`: whether the primary
        metric has a number here.
        """
        self._rows += 1
        name = f"document {_cut(_text(doc_id))}"
        if not self._ids.is_new(doc_id):
            self._duplicates.add(name)
        chosen = likelihoods(responses)
        generates = self._generates and chosen is None
        verdict = judge_verdict(values, judged=self._judged)
        failed = verdict == "failed"
        reason = errored_reason(responses, generates=generates, judge_failed=failed, scored=scored)
        if failed:
            self._judge_failures.add(name)
        elif verdict == "blank":
            self._blank_verdicts.add(name)
        self._answered_verdicts += verdict == "answered"
        if reason in (BLANK_ANSWER, REQUEST_FAILED):
            self._empty.add(name)
        elif generates:
            self._count_response(responses)
        self._note_target(target)
        known = options or (len(chosen) if chosen else prompt_options(input_text, target))
        if known and known > 1:
            self._chance.add(known, chosen, answer_index(target))
        return reason

    def fill(self, facts: TaskFacts) -> None:
        """Write the evidence into the facts."""
        rows = self._rows
        facts.documents = self._ids.distinct
        facts.duplicates = self._duplicates.evidence(rows)
        facts.judge_failures = self._judge_failures.evidence(rows)
        facts.blank_verdicts = self._blank_verdicts.evidence(self._blank_verdicts.count + self._answered_verdicts)
        facts.chance = self._chance if self._chance.documents else None
        if self._generates:
            facts.empty = self._empty.evidence(rows)
        for digest, count in self._responses.most_common(1):
            facts.identical = Evidence(count, rows, (self._response_texts[digest],))
        if self._target is not None and self._targets == rows:
            facts.constant_target = Evidence(rows, rows, (_cut(self._target),))

    def _count_response(self, responses: Sequence[Any]) -> None:
        text = "\n".join(_text(response) for response in responses if not is_blank(response))
        digest = _digest(text)
        if digest in self._responses or len(self._responses) < _RESPONSES_COUNTED:
            self._responses[digest] += 1
            self._response_texts.setdefault(digest, _cut(text))

    def _note_target(self, target: Any) -> None:
        text = _text(target).strip()
        if self._target is None and self._rows == 1 and text not in _NO_TARGETS:
            self._target = text
        self._targets += text == self._target


def is_judged(metrics: Iterable[str], needs_judge: bool | None) -> bool:
    """Whether a judge scores the task: the catalogue says so, or one of its metrics is named for it."""
    return bool(needs_judge) or any(map(is_of_judge, metrics))


def _is_small(doc_id: Any) -> bool:
    return isinstance(doc_id, int) and not isinstance(doc_id, bool) and 0 <= doc_id < _BITMAP_IDS


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", errors="replace"), digest_size=8).digest()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} nested too deeply"


def _cut(text: str) -> str:
    """Shorten an example; half a surrogate pair, which a model may emit, has no UTF-8 form."""
    short = text if len(text) <= _EXAMPLE_TEXT else f"{text[:_EXAMPLE_TEXT]}…"
    return short.encode("utf-8", errors="replace").decode("utf-8")
