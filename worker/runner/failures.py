"""What went wrong with a task: the class of the failure, its cause and what to do about it.

Owns the failure classes of the protocol and the guess from an exception. It catches nothing itself.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

_OUT_OF_MEMORY = (
    "out of memory",
    "OutOfMemoryError",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "No available memory for the cache blocks",  # vLLM
    "larger than the available KV cache memory",
    "larger than the maximum number of tokens that can be stored in KV cache",
    "is less than desired GPU memory utilization",
    "Not enough memory. Please try",  # SGLang
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "hipErrorOutOfMemory",
)
_JUDGE_MODULES = ("openai", "anthropic", "lmms_eval.llm_judge")
_JUDGE_PATHS = ("/lmms_eval/llm_judge/", "/openai/", "/anthropic/")

_REMEDIES = {
    "bad_request": "Correct the request.",
    "dataset": "Check the data set's name, its access token (HF_TOKEN) and this machine's network or data cache.",
    "model_load": "Check the model's arguments, its files and the packages of the evaluation environment.",
    "out_of_memory": "Use a smaller batch size or smaller inputs (for example max_pixels), or more GPUs, and retry: "
    "answers so far are kept.",
    "judge": "Check the judge's key, address and model name in the worker's environment, and retry: "
    "answers are kept.",
    "scoring": "The task's own scoring raised; answers are kept, so a retry after mending the task only scores.",
    "timeout": "The service did not answer in time; retry: answers so far are kept.",
    "unknown": "See the traceback and the log; answers so far are kept.",
}
_BUILT_IN_REMEDY = (
    "lmms-eval's built-in scoring raised, not the task's own: give the task a process_results of its own, or use an "
    "lmms-eval release that scores this output type. Answers are kept, so a retry only scores."
)
_IMPORT_REMEDY = (
    "lmms-eval could not be imported: install lmms-eval 0.7.3 with all that it requires in the evaluation "
    "environment."
)
_FULL_DISK_REMEDY = "Free space where the run's output, cache and data sets lie, and retry: answers so far are kept."
_CLASS_OF_PHASE = {"dataset": "dataset", "model_load": "model_load", "score": "scoring"}


class TaskFailure(Exception):
    """A failure whose class we know already; its text is the whole message."""

    def __init__(self, failure: str, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True)
class Failure:
    """What a ``task-failed`` event says."""

    failure: str
    message: str
    traceback: str


def classify(error: BaseException, phase: str) -> Failure:
    """Describe an exception that ended a task in `phase`."""
    cause = root_cause(error)
    trace = "".join(traceback.format_exception(error))
    if isinstance(cause, TaskFailure):
        return Failure(cause.failure, str(cause), trace)
    failure = _class_of(cause, phase, trace)
    return Failure(failure, f"{_describe(cause, phase)}\n{_remedy(failure, cause, phase)}", trace)


def tells_of_memory(text: str) -> bool:
    """Whether a message, or a line of output, says that memory ran out."""
    return any(mark in text for mark in _OUT_OF_MEMORY)


def root_cause(error: BaseException) -> BaseException:
    """Return the exception inside a retry wrapper (lmms-eval retries data set loading and scoring)."""
    attempt = getattr(error, "last_attempt", None)
    inner = attempt.exception() if attempt is not None else None
    return root_cause(inner) if isinstance(inner, BaseException) else error


def _class_of(cause: BaseException, phase: str, trace: str) -> str:
    if any(isinstance(own, MemoryError) or tells_of_memory(f"{type(own).__name__}: {own}") for own in _chain(cause)):
        return "out_of_memory"
    if phase == "score" and _from_judge(cause, trace):
        return "judge"
    if phase == "generate" and (isinstance(cause, TimeoutError) or type(cause).__name__.endswith("Timeout")):
        return "timeout"
    return _CLASS_OF_PHASE.get(phase, "unknown")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised over: vLLM and adapters say little of the first one themselves."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _remedy(failure: str, cause: BaseException, phase: str) -> str:
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return _FULL_DISK_REMEDY
    if phase == "import":
        return _IMPORT_REMEDY
    if failure == "scoring" and _in_built_in_scoring(cause):
        return _BUILT_IN_REMEDY
    return _REMEDIES[failure]


def _from_judge(cause: BaseException, trace: str) -> bool:
    return type(cause).__module__.startswith(_JUDGE_MODULES) or any(path in trace for path in _JUDGE_PATHS)


def _in_built_in_scoring(cause: BaseException) -> bool:
    frames = traceback.extract_tb(cause.__traceback__)
    return bool(frames) and frames[-1].name == "process_results" and "/lmms_eval/api/" in frames[-1].filename


def _describe(cause: BaseException, phase: str) -> str:
    text = str(cause).strip() or "no message"
    if isinstance(cause, SystemExit):
        text = f"the code ended the process with status {cause.code!r}"
    if len(text) > 1000:
        text = f"{text[:1000]} …"
    frames = traceback.extract_tb(cause.__traceback__)
    place = f" (in {frames[-1].name})" if frames else ""
    return f"{type(cause).__name__} in phase {phase}{place}: {text}"
