"""The client for scripts and notebooks: submit, follow, read. It speaks to the server's HTTP API alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests

from mlflow_lmms.analysis_calls import AnalysisCalls
from mlflow_lmms.board_calls import BoardCalls
from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.http import Credentials, HttpApi, quoted, until_available
from mlflow_lmms.lmms_eval_command import read_command
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.saved_calls import SavedCalls
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import FINAL, State
from mlflow_lmms.suite import Suite

_STREAM_TIMEOUT_S = (5.0, 45.0)


class Client(AnalysisCalls, BoardCalls, SavedCalls):
    """Evaluations on one MLflow server.

    Args:
        tracking_uri: the MLflow server; default: ``MLFLOW_TRACKING_URI``, else the local one.
        credentials: default: MLflow's own environment variables.
    """

    def __init__(self, tracking_uri: str | None = None, credentials: Credentials | None = None) -> None:
        self._http = HttpApi(tracking_uri or Settings.load().server_url, credentials)

    @property
    def server_url(self) -> str:
        """Address of the server."""
        return self._http.server_url

    def submit(self, request: EvaluationRequest | Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for an evaluation; returns ``run_id``, ``experiment_id``, ``url`` and ``warnings``.

        >>> Client().submit(model="models:/my-model/3", tasks=["mmmu_val"])  # doctest: +SKIP
        """
        if not isinstance(request, EvaluationRequest):
            request = EvaluationRequest.parse({**(request or {}), **fields})
        return self._http.call("POST", "/evaluations", body=request.model_dump(mode="json", exclude_defaults=True))

    def submit_command(self, command: str | Sequence[str], **fields: Any) -> dict[str, Any]:
        """Ask for what a command line of lmms-eval would run; `fields` win over it.

        The answer of `submit`, and ``left_out``: what of the command the request does not hold, with the reasons.

        >>> Client().submit_command("lmms-eval --model qwen2_5_vl --model_args pretrained=Qwen/Qwen2.5-VL-3B-Instruct"
        ...                         " --tasks mme")  # doctest: +SKIP
        """
        pasted = read_command(command, fields)
        return self.submit(pasted.request) | {"left_out": list(pasted.left_out)}

    def evaluation(self, run_id: str) -> dict[str, Any]:
        """One evaluation with its tasks."""
        return self._http.call("GET", f"/evaluations/{quoted(run_id)}")

    def evaluations(
        self,
        *,
        state: str | None = None,
        experiment: str | None = None,
        model: str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[dict[str, Any]]:
        """Evaluations, newest first."""
        query = {"state": state, "experiment": experiment, "model": model, "limit": limit, "before": before}
        return list(self._http.call("GET", "/evaluations", query=query)["evaluations"])

    def cancel(self, run_id: str) -> dict[str, Any]:
        """Stop an evaluation."""
        return self._http.call("POST", f"/evaluations/{quoted(run_id)}/cancel", body={})

    def retry(self, run_id: str) -> dict[str, Any]:
        """Run again what failed or was cancelled."""
        return self._http.call("POST", f"/evaluations/{quoted(run_id)}/retry", body={})

    def rescore(self, run_id: str, tasks: Sequence[str] = ()) -> dict[str, Any]:
        """Score finished tasks again from their stored answers, without new inference; default: all of them."""
        return self._http.call("POST", f"/evaluations/{quoted(run_id)}/rescore", body={"tasks": list(tasks)})

    def log(self, run_id: str, *, level: str | None = None, search: str | None = None) -> list[dict[str, Any]]:
        """The lines of the log so far."""
        query = {"level": level, "search": search}
        return list(self._http.call("GET", f"/evaluations/{quoted(run_id)}/log", query=query)["lines"])

    def samples(
        self,
        run_id: str,
        task: str,
        *,
        wrong: bool = False,
        errored: bool = False,
        search: str = "",
        offset: int = 0,
        limit: int = 50,
    ) -> dict[str, Any]:
        """One page of a task's samples; `errored` are those that tell nothing of the model."""
        narrowed = {"wrong": int(wrong), "errored": int(errored), "search": search}
        query = narrowed | {"offset": offset, "limit": limit}
        return self._http.call("GET", f"/evaluations/{quoted(run_id)}/samples/{quoted(task)}", query=query)

    def media(self, run_id: str, task: str, index: int, number: int) -> bytes:
        """One picture of one sample."""
        path = f"/lmms/api/v1/evaluations/{quoted(run_id)}/samples/{quoted(task)}/{index}/media/{number}"
        try:
            response = self._http.session.get(f"{self.server_url}{path}", timeout=60)
        except requests.RequestException as error:
            raise self._http.unavailable(error) from None
        if not response.ok:
            self._http.answer(response)
        return response.content

    def comparability(self, first: str, second: str, *, task: str | None = None) -> dict[str, Any]:
        """Whether the results of two runs may be compared: ``verdict``, and by task what differs."""
        return self._http.call("GET", "/comparability", query={"first": first, "second": second, "task": task})

    def compare(self, *run_ids: str, tasks: Sequence[str] = ()) -> dict[str, Any]:
        """Runs against the first of them: ``tasks`` with the baseline's score and each candidate's difference.

        Args:
            run_ids: two or more.
            tasks: only these; none: every task that the baseline has.
        """
        return self._http.call("GET", "/comparison", query={"run": list(run_ids), "task": list(tasks)})

    def gate(self, candidate: str, baseline: str, *, suite: str | None = None, **fields: Any) -> dict[str, Any]:
        """Judge whether a candidate is no worse than a baseline: ``outcome`` is pass, fail or inconclusive.

        Args:
            candidate, baseline: a run's id, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
            suite: a stored suite with its margins; without one it is every task of the baseline.
            fields: `margin`, `margins`, `slice_margin`, `record` and the others of `gate_rules.GateRequest`.
        """
        asked = {"candidate": candidate, "baseline": baseline, "suite": suite, **fields}
        return self._http.call(
            "POST", "/gates", body={key: value for key, value in asked.items() if value is not None}
        )

    def index_run(self, run_id: str) -> int:
        """Put what a run holds onto the boards that this program has written by itself; returns how many scores."""
        return int(self._http.call("POST", f"/runs/{quoted(run_id)}/index", body={})["scores"])

    def suites(self) -> list[dict[str, Any]]:
        """Every suite with its newest revision."""
        return list(self._http.call("GET", "/suites")["suites"])

    def suite(self, name: str, revision: int | None = None) -> dict[str, Any]:
        """One revision of a suite, default the newest: ``suite`` as values, ``yaml`` as a text."""
        return self._http.call("GET", f"/suites/{quoted(name)}", query={"revision": revision})

    def suite_history(self, name: str) -> list[dict[str, Any]]:
        """Every revision of a suite, newest first."""
        return list(self._http.call("GET", f"/suites/{quoted(name)}/revisions")["revisions"])

    def put_suite(
        self, suite: Suite | Mapping[str, Any], *, note: str = "", base: int | None = None
    ) -> dict[str, Any]:
        """Make a suite or add a revision to it; ``made`` is false when the newest is like this already.

        Args:
            base: refuse when there is a newer revision than this one.
        """
        checked = suite if isinstance(suite, Suite) else Suite.parse(suite)
        body = {"suite": checked.as_json(), "note": note, "base": base}
        return self._http.call("PUT", f"/suites/{quoted(checked.name)}", body=body)

    def tasks(self, search: str = "") -> list[dict[str, Any]]:
        """Tasks of the catalogue."""
        return list(self._http.call("GET", "/tasks", query={"search": search})["tasks"])

    def models(self) -> list[dict[str, Any]]:
        """Registered model versions that can be evaluated."""
        return list(self._http.call("GET", "/models")["models"])

    def reindex(self) -> dict[str, Any]:
        """Have the score index built anew from the MLflow runs, or go on with that; administrators only."""
        return self._http.call("POST", "/index/rebuild")

    def index_state(self) -> dict[str, Any]:
        """How far the score index is: ``waiting`` changes, ``sweep`` and ``reindex``; administrators only."""
        return self._http.call("GET", "/index")

    def fleet(self) -> dict[str, Any]:
        """Boxes with their GPUs, leases, the queue with the reasons to wait, and the reservation."""
        return self._http.call("GET", "/fleet")

    def change_box(self, box: str, change: str, *, reason: str = "") -> dict[str, Any]:
        """``pause``, ``drain`` or ``resume`` a box; administrators only."""
        return self._http.call("POST", f"/fleet/boxes/{quoted(box)}/{quoted(change)}", body={"reason": reason})

    def forget_box(self, box: str) -> dict[str, Any]:
        """Leave a box that will not come back out of the fleet; administrators only."""
        return self._http.call("DELETE", f"/fleet/boxes/{quoted(box)}")

    def fleet_use(self, *, by: str = "user", days: int = 30) -> dict[str, Any]:
        """GPU-hours, idle share and queue wait by ``user``, ``box`` or ``run``."""
        return self._http.call("GET", "/fleet/use", query={"by": by, "days": days})

    def quotas(self) -> dict[str, Any]:
        """The ``default`` quota, and those of ``users`` that have another."""
        return self._http.call("GET", "/fleet/quotas")

    def put_quota(
        self, user: str | None, *, gpus: int | None = None, gpu_hours: float | None = None
    ) -> dict[str, Any]:
        """Set the quota of a user, or of everybody who has no own (None); nothing means no limit."""
        path = "/fleet/quotas" if user is None else f"/fleet/quotas/{quoted(user)}"
        return self._http.call("PUT", path, body={"gpus": gpus, "gpu_hours": gpu_hours})

    def drop_quota(self, user: str) -> dict[str, Any]:
        """Let the default quota hold for a user again."""
        return self._http.call("DELETE", f"/fleet/quotas/{quoted(user)}")

    def health(self) -> dict[str, Any]:
        """Versions and state of the server's parts."""
        return self._http.call("GET", "/health")

    def wait(self, run_id: str) -> dict[str, Any]:
        """Follow an evaluation to its end and return it."""
        for _ in self.events(run_id):
            pass
        return self.evaluation(run_id)

    def events(self, run_id: str, *, after: str | None = None) -> Iterator[dict[str, Any]]:
        """Live events, oldest first, until the evaluation has ended; a broken connection is taken up again.

        Each event has ``id``, ``kind`` and ``data``; `after` is the id of the last one that was seen.
        """
        while True:
            try:
                for event in self._stream(run_id, after):
                    after = event["id"] or after
                    yield event
                    if event["kind"] == "state" and event["data"].get("run_state") in FINAL:
                        return
            except UnavailableError:
                until_available(self.health)
            if State(self.evaluation(run_id)["state"]) in FINAL:
                return

    def _stream(self, run_id: str, after: str | None) -> Iterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        url = f"{self.server_url}/lmms/events/runs/{quoted(run_id)}"
        try:
            with self._http.session.get(url, headers=headers, stream=True, timeout=_STREAM_TIMEOUT_S) as response:
                if not response.ok:
                    self._http.answer(response)
                # Cut as bytes: text would also be cut at the line separators of Unicode.
                yield from parse_events(line.decode() for line in response.iter_lines())
        except requests.RequestException as error:
            raise self._http.unavailable(error) from None


def parse_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Read server-sent events: ``id``, ``event`` and ``data`` lines, a blank line ends one.

    WHATWG HTML, "Server-sent events", section 9.2.6.
    """
    identifier, kind, data = "", "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield {"id": identifier, "kind": kind, "data": json.loads("\n".join(data))}
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            identifier = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
