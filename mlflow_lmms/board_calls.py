"""The client's calls for boards."""

from __future__ import annotations

from typing import Any

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.http import HttpApi


class BoardCalls:
    """A part of `mlflow_lmms.Client`."""

    _http: HttpApi

    def leaderboard(
        self, *, experiment: str | None = None, offset: int = 0, limit: int | None = None, **asked: Any
    ) -> dict[str, Any]:
        """The leaderboard: ``columns``, ``rows`` (best first), ``total`` of the rows, ``verdicts``, ``left_out``.

        >>> Client().leaderboard(suite="documents", versions="latest", costs=True)  # doctest: +SKIP

        Args:
            experiment: the same as ``experiments=[experiment]``.
            offset, limit: only so many rows, from this one on.
            asked: the fields of `mlflow_lmms.board_query.BoardQuery`.

        Raises:
            InvalidRequestError: a field that there is not, or with a value that it does not take.
        """
        fields = {name: value for name, value in asked.items() if value is not None}
        if experiment:
            fields["experiments"] = [*fields.get("experiments", ()), experiment]
        part = {"offset": offset or None, "limit": limit}
        return self._http.call("GET", "/leaderboard", query=BoardQuery.of(fields).as_arguments() | part)
