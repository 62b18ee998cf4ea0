"""What an import did with each results file: values only, shown by the command and returned as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class ImportStatus(StrEnum):
    """What became of one file."""

    IMPORTED = "imported"
    ALREADY = "already imported"
    WOULD_IMPORT = "would be imported"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True)
class FileOutcome:
    """One file; `warnings` are names by task, `notes` sentences, `refused` its samples files with the reason."""

    path: Path
    status: ImportStatus
    reason: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    model: str | None = None
    tasks: tuple[str, ...] = ()
    samples: int = 0
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: tuple[tuple[Path, str], ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "path": str(self.path),
            "status": str(self.status),
            "reason": self.reason,
            "run_id": self.run_id,
            "run_name": self.run_name,
            "model": self.model,
            "tasks": list(self.tasks),
            "samples": self.samples,
            "warnings": {task: list(names) for task, names in self.warnings.items()},
            "refused_files": [{"path": str(path), "reason": reason} for path, reason in self.refused],
        }


@dataclass(frozen=True)
class ImportReport:
    """Every file that was looked at, in order."""

    files: tuple[FileOutcome, ...]

    @staticmethod
    def of(files: Iterable[FileOutcome]) -> ImportReport:
        """Gather outcomes."""
        return ImportReport(tuple(files))

    def count(self, status: ImportStatus) -> int:
        """How many files came to this."""
        return sum(outcome.status is status for outcome in self.files)

    @property
    def refused(self) -> list[tuple[Path, str]]:
        """Every file that was refused, samples files included, with the reason."""
        whole = [(own.path, own.reason or "") for own in self.files if own.status is ImportStatus.REFUSED]
        return whole + [one for own in self.files for one in own.refused]

    def document(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        counts = {str(status): self.count(status) for status in ImportStatus if self.count(status)}
        return {
            "counts": counts,
            "files": [outcome.document() for outcome in self.files],
            "refused": [{"path": str(path), "reason": reason} for path, reason in self.refused],
        }
