"""The only kind of queue job that a worker runs: one function, two plain words, and nothing that calls back.

Stock RQ imports and calls whatever dotted name a job holds, with JSON too; whoever can write to Redis could run code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rq.exceptions import DeserializationError
from rq.job import Job, JobStatus

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.evaluation_queue import JOB_FUNCTION, job_id

#: Run id and part name folders and keys, so nothing but these characters may be in them.
_WORD = re.compile(r"[A-Za-z0-9_]{1,64}")


class RefusedJobError(InvalidRequestError):
    """A job that asks for something other than to run a part."""


class SafeJob(Job):
    """An RQ job that can only be `worker.job.run_part(run_id, part)`."""

    def part(self) -> tuple[str, str]:
        """Run id and part, checked.

        Raises:
            RefusedJobError: the job is anything else than a part to run.
        """
        try:
            name, instance, args, kwargs = self.func_name, self.instance, self.args, self.kwargs
        except DeserializationError:
            raise RefusedJobError(f"job {self.id} is refused: its data is no JSON") from None
        if name != JOB_FUNCTION or instance is not None:
            raise RefusedJobError(f"job {self.id} is refused: it may only call {JOB_FUNCTION}, got {name!r}")
        if self._success_callback_name or self._failure_callback_name or self._stopped_callback_name or self.webhooks:
            raise RefusedJobError(f"job {self.id} is refused: it may have neither callbacks nor webhooks")
        words = [word for word in args if isinstance(word, str)] if isinstance(args, list) and not kwargs else []
        plain = len(words) == 2 == len(args) and all(_WORD.fullmatch(word) for word in words)
        if not plain or job_id(*words) != self.id:
            raise RefusedJobError(
                f"job {self.id} is refused: expected run id and part as in its id, got {args!r} {kwargs!r}"
            )
        return words[0], words[1]

    def restore(self, raw_data: Any) -> Any:
        """Read the job from Redis; what may run how long is decided elsewhere, never by RQ's alarm."""
        restored = super().restore(raw_data)
        self.timeout = -1
        return restored

    @property
    def success_callback(self) -> None:
        """Never one; RQ would import it by name."""

    @property
    def failure_callback(self) -> None:
        """Never one."""

    @property
    def stopped_callback(self) -> None:
        """Never one."""

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        """Send nothing, to nobody."""

    @property
    def func(self) -> Callable[[str, str], None]:
        """The function that runs a part."""
        self.part()
        from worker.job import run_part  # it brings MLflow, which a worker that refuses the job does not need

        return run_part
