"""Cuts one task's requests into chunks, so that a killed run asks only for what is missing.

Owns the wrapper around lmms-eval's `ResponseCache.execute`: lmms-eval stores answers only when such a call returns,
and it makes one call for all requests. Scoring is not touched and runs once. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts, unwrap_generation_output
from lmms_eval.caching import response_cache

from worker.runner.answers import AnswerKey, AnswerStore
from worker.runner.chunk_plan import ChunkPlan
from worker.runner.progress import Progress
from worker.runner.request_rate import RequestRate

# What adapters of services answer when a request failed for good, or was not sent for its cost.
_NO_ANSWER = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED")

Listener = Callable[[Sequence[Any], Sequence[Any]], None]


class ChunkedExecution:
    """One task's requests, chunk by chunk, with the answers that lmms-eval would not keep."""

    def __init__(
        self,
        answers: AnswerStore,
        progress: Progress,
        task: str,
        largest: int,
        at_once: Callable[[], int],
        documents: int,
        listener: Listener,
        rate: RequestRate | None = None,
    ) -> None:
        self._answers = answers
        self._progress = progress
        self._task = task
        self._largest = largest
        self._at_once = at_once
        self._documents = documents
        self._asked: Counter[str] = Counter()
        self._started: set[Any] = set()
        self._listener = listener
        self._rate = rate
        self.original: Callable[..., list[Any]] = response_cache.ResponseCache.execute

    def execute(self, cache: Any, lm: Any, kind: str, requests: Sequence[Any]) -> list[Any]:
        """Answer all requests; stands in for `ResponseCache.execute`."""
        if len(requests) == 1 and self._documents > 1:
            return self._single_step(cache, lm, kind, requests)
        self._progress.enter("generate", self._task)
        self._progress.expect(len(requests))
        plan = ChunkPlan([request.doc_id for request in requests], self._largest, self._at_once())
        answers: list[Any] = []
        while (chunk := plan.next()) is not None:
            part = requests[chunk]
            self._progress.window(chunk.start, len(part))
            started = time.monotonic()
            answers += (fresh := self._answer(cache, lm, kind, part))
            plan.took(len(part), time.monotonic() - started)
            self._progress.advance(chunk.stop)
            self._listener(part, fresh)
        return answers

    def _single_step(self, cache: Any, lm: Any, kind: str, requests: Sequence[Any]) -> list[Any]:
        """One step of an agentic task, which lmms-eval executes request by request."""
        if not self._started:
            self._progress.enter("generate", self._task)
            self._progress.expect(self._documents)
        self._started.add(requests[0].doc_id)
        self._progress.window(len(self._started) - 1, 1)
        return self._answer(cache, lm, kind, requests)

    def _answer(self, cache: Any, lm: Any, kind: str, requests: Sequence[Any]) -> list[Any]:
        keys = [self._key(cache, kind, request) for request in requests]
        missing = [index for index, key in enumerate(keys) if key not in self._answers]
        fresh = self.original(cache, _Counted(lm, kind, self._rate), kind, [requests[index] for index in missing])
        self._keep(
            cache, kind, {keys[index]: (requests[index], new) for index, new in zip(missing, fresh, strict=True)}
        )
        if cache._use_scratch:  # the cache folder is on a network disk; another box would not find the rest
            cache._checkpoint_to_run_dir()
        by_index = dict(zip(missing, fresh, strict=True))
        answers = [by_index[index] if index in by_index else self._answers[key] for index, key in enumerate(keys)]
        return [_as_answered(kind, own, self._answers.counts(key)) for own, key in zip(answers, keys, strict=True)]

    def _keep(self, cache: Any, kind: str, fresh: Mapping[AnswerKey, tuple[Any, Any]]) -> None:
        texts, counts = {}, {}
        for key, (request, answer) in fresh.items():
            text, counted = unwrap_generation_output(answer) if kind.startswith("generate") else (answer, None)
            if cache._is_valid_response(answer, kind) and not _is_deterministic(kind, request):
                texts[key] = text
            if counted is not None and (known := counted.to_dict()):
                counts[key] = known
        self._answers.keep(texts, counts)

    def _key(self, cache: Any, kind: str, request: Any) -> AnswerKey:
        key = response_cache.compute_cache_key(
            request_type=kind,
            task_name=request.task_name,
            doc_id=request.doc_id,
            gen_kwargs=response_cache.extract_gen_kwargs(request),
            idx=request.idx,
            content_hash=response_cache._extract_content_hash(request),
            task_fingerprint=cache._task_fingerprints.get(request.task_name, ""),
            model_fingerprint_hash=cache._model_fingerprint_hash,
            eval_version=cache._eval_version,
        )
        repeat = self._asked[key]
        self._asked[key] += 1
        return key, repeat


class _Counted:
    """The model, checked to answer every request; lmms-eval would take the missing ones for empty."""

    def __init__(self, lm: Any, kind: str, rate: RequestRate | None) -> None:
        self._ask = getattr(lm, kind)
        self._rate = rate
        setattr(self, kind, self._answer)

    def _answer(self, requests: Sequence[Any]) -> Any:
        with self._rate.covering(len(requests)) if self._rate else contextlib.nullcontext():
            answers = self._ask(requests)
        if len(answers) != len(requests):
            raise RuntimeError(
                f"expected {len(requests)} answers from the model adapter, got {len(answers)}; "
                "an adapter must return one answer per request, in order"
            )
        return [_counted_result(answer) for answer in answers]


@contextlib.contextmanager
def chunked(execution: ChunkedExecution) -> Iterator[None]:
    """Let `execution` answer in place of lmms-eval's response cache."""

    def execute(cache: Any, lm: Any, reqtype: str, requests: Sequence[Any]) -> list[Any]:
        return execution.execute(cache, lm, reqtype, requests)

    cache_class = response_cache.ResponseCache
    write_audit = cache_class._log_to_audit
    cache_class.execute = execute
    # The audit log repeats the database and waits for the disk after each answer, which a fast model feels; the
    # database alone survives a kill.
    cache_class._log_to_audit = _write_nothing
    is_valid = cache_class._is_valid_response
    cache_class._is_valid_response = staticmethod(_answered_by(is_valid))
    try:
        yield
    finally:
        cache_class.execute = execution.original
        cache_class._log_to_audit = write_audit
        cache_class._is_valid_response = staticmethod(is_valid)


def _answered_by(is_valid: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    """Let lmms-eval's test of an answer also refuse what its adapters say in place of one that failed."""

    def check(response: Any, kind: str) -> bool:
        text = getattr(response, "text", response)
        failed = isinstance(text, str) and text.startswith(_NO_ANSWER)
        return not failed and is_valid(response, kind)

    return check


def _write_nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand in for `ResponseCache._log_to_audit`."""


def _is_deterministic(kind: str, request: Any) -> bool:
    """Whether lmms-eval's cache keeps the answer; an empty one is kept nowhere, so that a retry asks again."""
    return bool(response_cache.is_deterministic(kind, response_cache.extract_gen_kwargs(request)))


def _counted_result(answer: Any) -> Any:
    """Give an answer with token counts the one form that lmms-eval's cache takes for a text and its counts.

    It would give a pair back as a list of two texts, which is scored as an answer in two rounds.
    """
    text, counts = unwrap_generation_output(answer) if isinstance(answer, tuple) else (None, None)
    return answer if counts is None else GenerationResult(text, counts)


def _as_answered(kind: str, answer: Any, counts: Mapping[str, int] | None) -> Any:
    # JSON turns the tuple of a log-likelihood into a list, and lmms-eval hands its text to scoring.
    if kind == "loglikelihood" and isinstance(answer, list):
        return tuple(answer)
    if isinstance(answer, str) and counts:  # from a cache, which keeps the text alone
        return GenerationResult(answer, TokenCounts(**counts))
    return answer
