"""Chunked execution over lmms-eval's real response cache: what is asked, what is kept, in which order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts, unwrap_generation_output
from lmms_eval.caching.response_cache import ResponseCache

from worker.runner.answers import AnswerStore
from worker.runner.chunks import ChunkedExecution, chunked


class Model:
    """Answers by a function and notes what it was asked."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self.asked: list[list[int]] = []

    def _run(self, requests: Sequence[Any]) -> list[Any]:
        self.asked.append([request.doc_id for request in requests])
        return [self._answer(request) for request in requests]

    generate_until = loglikelihood = _run


class Silence:
    """Progress that nobody follows."""

    def enter(self, phase: str, task: str | None) -> None: ...

    def expect(self, total: int) -> None: ...

    def window(self, start: int, size: int) -> None: ...

    def advance(self, done: int) -> None: ...


def _requests(documents: int, repeats: int = 1, kind: str = "generate_until", **settings: Any) -> list[Any]:
    """Requests as lmms-eval hands them over: one object as often as it is to be answered."""
    made = []
    for doc_id in range(documents):
        metadata = {"task": "t", "doc_id": doc_id, "repeats": repeats}
        choices = range(3) if kind == "loglikelihood" else range(1)
        for choice in choices:
            arguments: tuple[Any, ...] = (f"question {doc_id}", f" choice {choice}" if len(choices) > 1 else settings)
            made += [Instance(kind, arguments, choice, metadata)] * repeats
    return made


Run = Callable[..., list[Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Execute requests with new objects over the same files, as a new process would."""
    monkeypatch.setenv("LMMS_CACHE_RUN_ID", "run")

    def execute(model: Model, *calls: Sequence[Any], documents: int = 20) -> list[Any]:
        with closing(AnswerStore(tmp_path)) as answers:
            silent: Any = Silence()
            execution = ChunkedExecution(answers, silent, "t", 8, lambda: 6, documents, lambda _part, _fresh: None)
            cache = ResponseCache.create(str(tmp_path), model="m", model_args="a=1")
            with chunked(execution), closing(cache):
                return [answer for call in calls for answer in cache.execute(model, call[0].request_type, list(call))]

    return execute


def _words(request: Any) -> str:
    return f"answer {request.doc_id}"


def test_requests_are_asked_in_chunks_and_answered_in_order(run: Run) -> None:
    model = Model(_words)
    assert run(model, _requests(20)) == [f"answer {doc_id}" for doc_id in range(20)]
    assert model.asked == [list(range(6)), list(range(6, 12)), list(range(12, 18)), [18, 19]]


def test_interrupted_work_is_not_asked_again(run: Run) -> None:
    def fail_late(request: Any) -> str:
        if request.doc_id == 17:
            raise ConnectionError
        return _words(request)

    with pytest.raises(ConnectionError):
        run(Model(fail_late), _requests(20))
    model = Model(_words)
    assert run(model, _requests(20)) == [f"answer {doc_id}" for doc_id in range(20)]
    assert model.asked == [list(range(12, 18)), [18, 19]]


def test_sampled_answers_are_kept_each_for_its_repeat(run: Run) -> None:
    numbers = count()
    requests = _requests(5, repeats=3, temperature=0.7, do_sample=True)
    first = run(Model(lambda _: f"draw {next(numbers)}"), requests)
    assert first == [f"draw {number}" for number in range(15)]
    again = Model(_words)
    assert run(again, requests) == first
    assert again.asked == []


@pytest.mark.parametrize("nothing", ["", "  \n", None])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "do_sample": True}])
def test_empty_answers_alone_are_asked_again(run: Run, nothing: str | None, settings: dict[str, Any]) -> None:
    def answer(request: Any) -> str | None:
        return nothing if request.doc_id % 2 else _words(request)

    first = run(Model(answer), _requests(6, **settings))
    assert first == ["answer 0", nothing, "answer 2", nothing, "answer 4", nothing]
    again = Model(_words)
    assert run(again, _requests(6, **settings)) == [f"answer {doc_id}" for doc_id in range(6)]
    assert again.asked == [[1, 3, 5]]


@pytest.mark.parametrize("wrap", [str, GenerationResult])
def test_failed_requests_are_asked_again(run: Run, wrap: Callable[[str], Any]) -> None:
    run(Model(lambda _: wrap("[LMMS_EVAL_REQUEST_FAILED after 5 retries] 503")), _requests(3))
    again = Model(_words)
    assert run(again, _requests(3)) == ["answer 0", "answer 1", "answer 2"]
    assert again.asked == [[0, 1, 2]]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: GenerationResult(text, TokenCounts(3, 4)),
        lambda text: (text, TokenCounts(3, 4)),
        lambda text: (text, {"input_tokens": 3, "output_tokens": 4}),
    ],
)
def test_token_counts_are_kept_with_answers(run: Run, wrap: Callable[[str], Any], settings: dict[str, Any]) -> None:
    requests = _requests(2, **settings)
    run(Model(lambda request: wrap(_words(request))), requests)
    again = Model(_words)
    found = [unwrap_generation_output(answer) for answer in run(again, requests)]
    assert found == [(f"answer {number}", TokenCounts(3, 4)) for number in range(2)]
    assert again.asked == []


def test_likelihoods_come_back_as_they_were(run: Run) -> None:
    def likelihood(request: Any) -> tuple[float, bool]:
        return -float(request.idx), request.idx == 0

    requests = _requests(5, kind="loglikelihood")
    first = run(Model(likelihood), requests)
    again = Model(_words)
    assert repr(run(again, requests)) == repr(first)
    assert again.asked == []


def test_documents_choices_stay_in_one_chunk(run: Run) -> None:
    model = Model(lambda _: (0.0, True))
    run(model, _requests(5, kind="loglikelihood"))
    assert model.asked == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3], [4, 4, 4]]


def test_other_settings_are_other_answers(run: Run) -> None:
    run(Model(_words), _requests(3, temperature=0.5))
    model = Model(_words)
    run(model, _requests(3, temperature=0.9))
    assert model.asked == [[0, 1, 2]]


def test_steps_of_an_agentic_task_are_kept_one_by_one(run: Run) -> None:
    """lmms-eval executes each step by itself; the same first step comes once per repeat."""
    numbers = count()
    step = _requests(1, temperature=0.7)
    first = run(Model(lambda _: f"draw {next(numbers)}"), step, step)
    assert first == ["draw 0", "draw 1"]
    again = Model(_words)
    assert run(again, step, step) == first
    assert again.asked == []


def test_adapter_that_loses_an_answer_is_refused(run: Run) -> None:
    class Lossy(Model):
        def generate_until(self, requests: Sequence[Any]) -> list[Any]:
            return ["one"]

    with pytest.raises(RuntimeError, match="expected 3 answers from the model adapter"):
        run(Lossy(_words), _requests(3))


def test_answers_do_not_wait_for_the_disk_one_by_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    run(Model(_words), _requests(20))
    assert len(waits) <= 2  # when the files are closed


def test_lmms_evals_cache_is_itself_again_afterwards(run: Run) -> None:
    names = ("execute", "_log_to_audit", "_is_valid_response")
    originals = [getattr(ResponseCache, name) for name in names]
    run(Model(_words), _requests(1))
    assert [getattr(ResponseCache, name) for name in names] == originals
