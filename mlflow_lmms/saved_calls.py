"""The client's calls for what people keep beside the results, and for what differs between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_lmms.http import HttpApi, quoted


class SavedCalls:
    """A part of `mlflow_lmms.Client`."""

    _http: HttpApi

    def views(self, kind: str | None = None, *, archived: bool = False) -> list[dict[str, Any]]:
        """Your saved boards and comparisons, and those that are shared."""
        query = {"kind": kind, "archived": int(archived)}
        return list(self._http.call("GET", "/views", query=query)["views"])

    def view(self, view_id: str, revision: int | None = None) -> dict[str, Any]:
        """One revision of a saved view, default the newest: ``view`` is what was saved."""
        return self._http.call("GET", f"/views/{quoted(view_id)}", query={"revision": revision})

    def open_view(self, view_id: str, revision: int | None = None) -> dict[str, Any]:
        """A saved view and what it shows now: ``shown`` is the board, or the comparison."""
        return self._http.call("GET", f"/views/{quoted(view_id)}/open", query={"revision": revision})

    def view_history(self, view_id: str) -> list[dict[str, Any]]:
        """Every revision of a saved view, newest first."""
        return list(self._http.call("GET", f"/views/{quoted(view_id)}/revisions")["revisions"])

    def save_board(self, name: str, query: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Save a board.

        Args:
            query: the fields of `mlflow_lmms.board_query.BoardQuery`.
            more: ``notes``, ``shared``.
        """
        return self.save_view({"kind": "board", "name": name, "query": dict(query or {}), **more})

    def save_comparison(self, name: str, runs: Sequence[str], **more: Any) -> dict[str, Any]:
        """Save a comparison of runs.

        Args:
            more: ``baseline`` (default: the first run), ``tasks``, ``filters``, ``notes``, ``shared``.
        """
        return self.save_view({"kind": "comparison", "name": name, "runs": list(runs), **more})

    def save_view(self, view: Mapping[str, Any], *, note: str = "") -> dict[str, Any]:
        """Save a view; its ``id`` is what to share."""
        return self._http.call("POST", "/views", body={"view": dict(view), "note": note})

    def change_view(
        self, view_id: str, view: Mapping[str, Any], *, note: str = "", base: int | None = None
    ) -> dict[str, Any]:
        """Add a revision to a view; ``made`` is false when the newest is like this already.

        Args:
            base: refuse when there is a newer revision than this one.
        """
        body = {"view": dict(view), "note": note, "base": base}
        return self._http.call("PUT", f"/views/{quoted(view_id)}", body=body)

    def add_note(
        self, run_id: str, text: str, *, task: str | None = None, sample: int | None = None
    ) -> dict[str, Any]:
        """Note something of a run, of its result on a task, or of one of the task's samples."""
        body = {"text": text, "task": task, "sample": sample}
        return self._http.call("POST", f"/runs/{quoted(run_id)}/notes", body=body)

    def notes(
        self,
        *run_ids: str,
        task: str | None = None,
        sample: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Notes, newest first, of these runs or of all that you may read; an empty task: those on whole runs."""
        query = {"run": list(run_ids), "task": task, "sample": sample, "before": before, "limit": limit}
        return list(self._http.call("GET", "/notes", query=query)["notes"])

    def invalidate(self, run_id: str, task: str, *, reason: str) -> dict[str, Any]:
        """Declare a result wrong: boards show it and rank it no more."""
        return self._correct(run_id, task=task, action="invalidate", reason=reason)

    def set_score(
        self,
        run_id: str,
        task: str,
        value: float,
        *,
        reason: str,
        low: float | None = None,
        high: float | None = None,
    ) -> dict[str, Any]:
        """Give a result another value, in its primary metric's own units; without an interval it is not ranked."""
        changes = {"value": value, "low": low, "high": high}
        return self._correct(run_id, task=task, action="rescore", reason=reason, **changes)

    def restore(self, run_id: str, task: str, *, reason: str) -> dict[str, Any]:
        """Let a result stand as it was recorded again."""
        return self._correct(run_id, task=task, action="restore", reason=reason)

    def corrections(
        self, *run_ids: str, task: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Who invalidated, re-scored and restored what, newest first."""
        query = {"run": list(run_ids), "task": task, "before": before, "limit": limit}
        return list(self._http.call("GET", "/corrections", query=query)["corrections"])

    def flips(
        self,
        baseline: str,
        candidate: str,
        task: str,
        *,
        kinds: Sequence[str] = (),
        search: str = "",
        offset: int = 0,
        limit: int = 50,
    ) -> dict[str, Any]:
        """One page of the documents whose answer changed: ``flips``, ``counts`` by kind, ``total``.

        Args:
            kinds: of ``right_to_wrong``, ``wrong_to_right``, ``worse``, ``better``, ``changed`` (another answer with
                the same score) and ``same``; none: all but ``same``.
        """
        sides = {"baseline": baseline, "candidate": candidate, "task": task}
        narrowed = {"kind": list(kinds), "search": search, "offset": offset, "limit": limit}
        return self._http.call("GET", "/comparison/flips", query=sides | narrowed)

    def config_diff(self, *run_ids: str, everything: bool = False) -> dict[str, Any]:
        """Which settings of runs differ: ``settings`` with the ``values`` by run."""
        query = {"run": list(run_ids), "all": int(everything)}
        return self._http.call("GET", "/comparison/config", query=query)

    def _correct(self, run_id: str, **body: Any) -> dict[str, Any]:
        return self._http.call("POST", f"/runs/{quoted(run_id)}/corrections", body=body)
