"""The error for a file that cannot be imported: its path and the reason. Pure."""

from __future__ import annotations

from pathlib import Path

from mlflow_lmms.errors import UnreadableOutputError


class RefusedFileError(UnreadableOutputError):
    """A file that is not what it should be; the others are imported all the same."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}", path=str(path), reason=reason)
        self.path = path
        self.reason = reason
