"""The worker's side of the worker API: every call carries the fencing token and an idempotency key.

While the server is away a call waits and is repeated, so that no result is lost to a restart. Worker and server speak
the lower of their two protocols; a server that is too old for this worker is named with the remedy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.http import HttpApi, until_available
from mlflow_lmms.protocol import agreed
from mlflow_lmms.states import FailureClass, State
from mlflow_lmms.work_order import PROTOCOL, Use, WorkOrder


@dataclass(frozen=True)
class HeldPart:
    """A part that this worker holds the lease of."""

    run_id: str
    part: str
    token: int


class WorkerApi:
    """Calls ``/lmms/api/v1/worker/…``; `keep_trying` is asked before each repetition while the server is away."""

    def __init__(self, http: HttpApi, *, keep_trying: Callable[[], bool] = lambda: True) -> None:
        self._http = http
        self._keep_trying = keep_trying

    def claim(self, held: HeldPart, *, box: str, slot: str, gpus: tuple[str, ...]) -> WorkOrder:
        """Tell the server of the lease and get the work.

        Raises:
            StaleTokenError: with ``details["minimum_token"]``, when a newer token had the part.
            ConflictError: nothing is left to do, or the run is cancelled.
            ConfigurationError: worker and server have no protocol in common; with the command that helps.
        """
        told = {"box": box, "slot": slot, "gpus": list(gpus)}
        try:
            answer = self._post("claim", held, {"protocol": PROTOCOL, **told})
        except InvalidRequestError:
            common = self._common_protocol()
            if common == PROTOCOL:  # then it was something else
                raise
            answer = self._post("claim", held, {"protocol": common, **told})
        return WorkOrder.model_validate(answer)

    def started(self, held: HeldPart, task: str) -> None:
        """The runner has begun with a task."""
        self._post("started", held, {"task": task})

    def recording(self, held: HeldPart, task: str) -> None:
        """The task's result is there and goes into the run now."""
        self._post("recording", held, {"task": task})

    def task_finished(
        self, held: HeldPart, task: str, *, samples: int, metric: str | None, score: float | None
    ) -> None:
        """The task's result stands in the MLflow run."""
        self._post("task-finished", held, {"task": task, "samples": samples, "metric": metric, "score": score})

    def task_failed(
        self, held: HeldPart, task: str, failure: FailureClass, message: str, log_tail: str, *, retryable: bool
    ) -> State:
        """The task failed; the answer is its state now (`queued` when the server wants another attempt)."""
        told = {"failure": failure, "message": message, "log_tail": log_tail, "retryable": retryable}
        return State(self._post("task-failed", held, {"task": task, **told})["state"])

    def part_finished(self, held: HeldPart, *, given_back: bool = False, use: Use | None = None) -> None:
        """This worker is done with the part, whatever became of its tasks.

        Args:
            given_back: it stopped before the end, through no fault of the part.
            use: what it used of its GPUs.
        """
        told = {"given_back": given_back, "use": None if use is None else use.model_dump(mode="json")}
        self._post("part-finished", held, told)  # a server of protocol 1 reads past what it does not know

    def heartbeat(self, held: HeldPart) -> bool:
        """Say that the part is alive; True when it is to stop. Not repeated: the next one comes soon."""
        answer = self._http.call("POST", "/worker/heartbeat", body=_owner(held))
        return bool(answer["cancel"])

    def _common_protocol(self) -> int:
        health = until_available(lambda: self._http.call("GET", "/health"), keep_trying=self._keep_trying)
        return agreed(int(health["protocol"]), str(health.get("version")), version("mlflow-lmms"))

    def _post(self, call: str, held: HeldPart, body: dict[str, Any]) -> dict[str, Any]:
        sent = {**_owner(held), **body}
        key = hashlib.sha256(f"{call} {sorted(sent.items(), key=str)}".encode()).hexdigest()
        return until_available(
            lambda: self._http.call("POST", f"/worker/{call}", body=sent, headers={"Idempotency-Key": key}),
            keep_trying=self._keep_trying,
        )


def _owner(held: HeldPart) -> dict[str, Any]:
    return {"run_id": held.run_id, "part": held.part, "token": held.token}
