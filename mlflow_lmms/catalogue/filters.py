"""Which tasks of the catalogue somebody wants to see."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mlflow_lmms.catalogue.index import Catalogue
from mlflow_lmms.catalogue.task import CatalogueTask

#: What a list can leave out.
OBSTACLES = ("judge", "token", "download", "remote-code", "submission", "trouble")


@dataclass(frozen=True)
class CatalogueFilter:
    """Every part that is given must hold; of several values in one part, one."""

    text: str = ""
    modalities: Collection[str] = ()
    categories: Collection[str] = ()
    languages: Collection[str] = ()
    without: Collection[str] = ()
    own: bool = False

    def tasks(self, catalogue: Catalogue) -> list[CatalogueTask]:
        """The tasks that fit, one's own first."""
        return [task for task in catalogue.search(self.text) if self._takes(task)]

    def _takes(self, task: CatalogueTask) -> bool:
        spoken = {language.lower() for language in task.languages.value or ()}
        return (
            (not self.own or task.own)
            and (not self.modalities or (task.modality.value or "unknown") in self.modalities)
            and (not self.categories or (task.category.value or "unknown") in self.categories)
            and (not self.languages or not spoken.isdisjoint(language.lower() for language in self.languages))
            and not any(obstacle in self.without for obstacle in obstacles(task))
        )


def obstacles(task: CatalogueTask) -> list[str]:
    """What may stand between a task and its score."""
    found = {
        "judge": task.judge.value in ("yes", "maybe"),
        "token": bool(task.token.value),
        "download": bool(task.download.value),
        "remote-code": bool(task.remote_code.value),
        "submission": bool(task.submission_only.value),
        "trouble": bool(task.trouble),
    }
    return [name for name, there in found.items() if there]
