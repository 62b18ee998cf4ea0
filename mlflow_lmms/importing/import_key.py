"""Finds and settles the runs of one results file: at the end there is one, and it is whole.

Owns the tag by which an import is known again, whichever experiment it went to.
"""

from __future__ import annotations

from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from mlflow_lmms.names import Tag
from mlflow_lmms.states import State

_AT_ONCE = 1000


class ImportedRuns:
    """The runs of one MLflow server that came from files."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def find(self, key: str) -> list[Run]:
        """The runs with this import key that are not deleted."""
        found: list[Run] = []
        experiments = self._experiments()
        for start in range(0, len(experiments), _AT_ONCE):
            some = experiments[start : start + _AT_ONCE]
            found += self._client.search_runs(
                some, f"tags.`{Tag.IMPORT_KEY}` = '{key}'", run_view_type=ViewType.ACTIVE_ONLY, max_results=100
            )
        return found

    def finished(self, key: str) -> Run | None:
        """The whole import of this key, where there is one."""
        whole = [run for run in self.find(key) if is_whole(run)]
        return min(whole, key=lambda run: str(run.info.run_id), default=None)

    def settle(self, key: str, run_id: str) -> str:
        """Delete what an interrupted import left, and all but one of several whole ones; return the one that stays.

        Two imports on two machines choose the same one, by its id. A run that a script logs into is left alone.
        """
        runs = [run for run in self.find(key) if run.data.tags.get(Tag.SOURCE) == "import"]
        stays = min((str(run.info.run_id) for run in runs if is_whole(run)), default=run_id)
        for run in runs:
            if run.info.run_id != stays:
                with suppress(MlflowException):  # the other import deletes it too
                    self._client.delete_run(run.info.run_id)
        return stays

    def _experiments(self) -> list[str]:
        identifiers: list[str] = []
        token = None
        while True:
            page = self._client.search_experiments(max_results=_AT_ONCE, page_token=token)
            identifiers += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                return identifiers


def is_whole(run: Run) -> bool:
    """Whether the import of this run came to its end; a script's own run goes on after that."""
    ended = run.info.status == "FINISHED" or run.data.tags.get(Tag.SOURCE) != "import"
    return ended and run.data.tags.get(Tag.STATE) == State.FINISHED
