"""Where the results of a part wait on this box until the server has confirmed them, and what is found there later.

One folder per run and part: the runner's output, its cache, and the folder that it works in.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from mlflow_lmms.errors import StorageFullError, UnreadableOutputError
from mlflow_lmms.evaluation_queue import job_id
from mlflow_lmms.task_result import read_task_result

_FOLDER = "spool"
_OUTPUT, _CACHE, _WORK, _EARLIER = "output", "cache", "work", "earlier"
#: Names the fencing token under which the cache was last written to.
_WRITTEN_UNDER = "written-under"


class Spool:
    """The folder of one part."""

    def __init__(self, data_folder: Path, run_id: str, part: str) -> None:
        self.folder = data_folder.absolute() / _FOLDER / run_id / part
        self.output = self.folder / _OUTPUT
        self.cache = self.folder / _CACHE
        self.work = self.folder / _WORK
        #: Samples of earlier attempts.
        self.earlier = self.folder / _EARLIER

    def prepare(self) -> None:
        """Make the folders; for this user alone, because answers and documents may be confidential.

        Raises:
            StorageFullError: that is not possible; with the reason.
        """
        try:
            for folder in (self.output, self.cache, self.work):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFullError(
                f"{self.folder} cannot be made ({error.strerror}): give the worker a folder that it can write to "
                "with MLFLOW_LMMS_DATA_FOLDER"
            ) from None

    @property
    def cache_token(self) -> int:
        """The token of the attempt that last wrote to the cache on this box; 0: none did."""
        try:
            return int((self.folder / _WRITTEN_UNDER).read_text(encoding="ascii")) if any(self.cache.iterdir()) else 0
        except (OSError, ValueError):
            return 0

    def own_cache(self, token: int) -> None:
        """Note that the cache is written to under this token from now on."""
        with suppress(OSError):  # then a checkpoint counts as newer, which costs a download
            (self.folder / _WRITTEN_UNDER).write_text(str(token), encoding="ascii")

    def results(self) -> dict[str, Path]:
        """Finished results by task; a file that cannot be read counts as not there, so the task is run again."""
        found = {}
        for file in sorted((self.output / "tasks").glob("*.json")):
            with suppress(UnreadableOutputError):
                found[read_task_result(file).task] = file
        return found

    def forget_results(self) -> None:
        """The server has every result; keep the log and the cache for a later attempt."""
        for folder in (*(self.output / name for name in ("tasks", "samples")), self.work, self.earlier):
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Forget it all, once the server has everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # other parts of the run are still there
            self.folder.parent.rmdir()


def jobs_with_results(data_folder: Path) -> list[str]:
    """Ids of the jobs of which finished results wait on this box."""
    files = (data_folder.absolute() / _FOLDER).glob(f"*/*/{_OUTPUT}/tasks/*.json")
    return sorted({job_id(file.parts[-5], file.parts[-4]) for file in files})


def tidy(data_folder: Path, older_than_s: float) -> None:
    """Remove caches that nobody has used for so long; a folder with results in it stays."""
    for folder in (data_folder.absolute() / _FOLDER).glob("*/*"):
        idle = time.time() - max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
        if idle > older_than_s and not any((folder / _OUTPUT / "tasks").glob("*.json")):
            shutil.rmtree(folder, ignore_errors=True)
