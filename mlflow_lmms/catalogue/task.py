"""What the catalogue says of one task and of one group. Values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_lmms.catalogue.derived import Derived
from mlflow_lmms.catalogue.metrics import CatalogueMetric

UNKNOWN = Derived(None, "not derived", 0.0)
#: The fields of a task that no file states, in the order in which they are shown.
DERIVED_FIELDS = (
    "modality", "category", "languages", "dimensions", "judge", "token", "download", "remote_code", "submission_only",
)  # fmt: skip


@dataclass(frozen=True)
class CatalogueTask:
    """One task: what its YAML file states, and what was derived from file and code."""

    name: str
    path: Path
    output_type: str
    dataset: str
    tags: tuple[str, ...]
    own: bool
    dataset_name: str = ""
    split: str = ""
    num_fewshot: int | None = None
    repeats: int = 1
    filters: tuple[str, ...] = ()
    metrics: tuple[CatalogueMetric, ...] = ()
    modality: Derived = UNKNOWN
    category: Derived = UNKNOWN
    languages: Derived = UNKNOWN
    dimensions: Derived = UNKNOWN
    judge: Derived = UNKNOWN
    token: Derived = UNKNOWN
    download: Derived = UNKNOWN
    remote_code: Derived = UNKNOWN
    submission_only: Derived = UNKNOWN
    trouble: tuple[str, ...] = ()
    dataset_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def derived(self) -> dict[str, Derived]:
        """Every derived field by name."""
        return {name: getattr(self, name) for name in DERIVED_FIELDS}

    def text(self) -> str:
        """What a search looks through."""
        derived = (self.modality.value, self.category.value, *(self.languages.value or ()))
        stated = (self.name, self.path.parent.name, self.dataset, self.dataset_name, *self.tags)
        return " ".join(map(str, (*stated, *derived, *(metric.name for metric in self.metrics)))).lower()


@dataclass(frozen=True)
class CatalogueGroup:
    """One group file."""

    name: str
    path: Path
    own: bool
    config: Mapping[str, Any] = field(default_factory=dict)
