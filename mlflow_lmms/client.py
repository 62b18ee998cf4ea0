"""The client for scripts and notebooks: submit, follow, read. It speaks to the server's HTTP API alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import requests

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.http import Credentials, HttpApi, quoted, until_available
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import FINAL, State
from mlflow_lmms.suite import Suite

_STREAM_TIMEOUT_S = (5.0, 45.0)


class Client:
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

    def leaderboard(
        self,
        *,
        suite: str | None = None,
        experiment: str | None = None,
        partial: bool = False,
        flagged: bool = False,
    ) -> dict[str, Any]:
        """The leaderboard: ``columns``, ``rows`` (best first), ``verdicts``, ``left_out``.

        Args:
            partial: rank results over a part of a task's documents too.
            flagged: rank results too whose warnings speak against it.
        """
        narrowed = {"suite": suite, "experiment": experiment}
        switches = {"partial": int(partial) or None, "flagged": int(flagged) or None}
        return self._http.call("GET", "/leaderboard", query=narrowed | switches)

    def comparability(self, first: str, second: str, *, task: str | None = None) -> dict[str, Any]:
        """Whether the results of two runs may be compared: ``verdict``, and by task what differs."""
        return self._http.call("GET", "/comparability", query={"first": first, "second": second, "task": task})

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

    def fleet(self) -> dict[str, Any]:
        """Boxes, leases and queue."""
        return self._http.call("GET", "/fleet")

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
