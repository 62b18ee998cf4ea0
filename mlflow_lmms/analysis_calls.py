"""The client's calls for what the server makes of many results: slices, trends, changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_lmms.http import HttpApi


class AnalysisCalls:
    """A part of `mlflow_lmms.Client`."""

    _http: HttpApi

    def slices(
        self, run_id: str, *, tasks: Sequence[str] = (), dimensions: Sequence[str] = (), against: str | None = None
    ) -> dict[str, Any]:
        """Scores of groups of documents: ``tasks`` with ``dimensions`` with ``groups``.

        Args:
            against: another run: what each group gains over it, and how its gap to the rest changes.
        """
        query = {"run": run_id, "task": list(tasks), "dimension": list(dimensions), "against": against}
        return self._http.call("GET", "/slices", query=query)

    def trend(
        self,
        model: str,
        *,
        tasks: Sequence[str] = (),
        suite: str | None = None,
        experiment: str | None = None,
        over: str = "version",
    ) -> dict[str, Any]:
        """A registered model's scores by task, oldest first, each tested against the one before.

        Args:
            over: ``version``: the latest result of each version; ``time``: every result.
        """
        query = {"task": list(tasks), "suite": suite, "experiment": experiment, "over": over}
        return self._http.call("GET", "/trend", query={"model": model, **query})

    def changes(
        self, *, since: float, until: float | None = None, suite: str | None = None, experiment: str | None = None
    ) -> dict[str, Any]:
        """What changed between two points in time (unix seconds; `until` default: now)."""
        query = {"since": since, "until": until, "suite": suite, "experiment": experiment}
        return self._http.call("GET", "/changes", query=query)
