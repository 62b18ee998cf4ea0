"""Answers so far in a folder that all boxes share: each owner of a part writes into a folder of its own token.

A worker that lost the part, and does not know it yet, so cannot write into the folder of the one that has it now.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from mlflow_lmms.errors import StorageFullError
from worker.cache_copy import COPY_ERRORS, copy_cache

logger = logging.getLogger(__name__)


class SharedCache:
    """The answers of one part in the shared folder."""

    def __init__(self, cache_folder: Path, run_id: str, part: str) -> None:
        self._folder = cache_folder.absolute() / run_id / part

    def take_over(self, token: int) -> Path:
        """The folder of this token, with what the newest owner before had; older folders are removed.

        Raises:
            StorageFullError: the shared folder cannot be written to.
        """
        own = self._folder / str(token)
        try:
            if not own.is_dir():
                self._fill(own, token)
        except OSError as error:
            raise StorageFullError(
                f"{own} cannot be made ({error.strerror}): the folder of MLFLOW_LMMS_CACHE_FOLDER must be writable "
                "on each box"
            ) from None
        return own

    def _fill(self, own: Path, token: int) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = self._folder / f".{token}.{os.getpid()}"
        older = sorted((known for known in self._tokens() if known < token), reverse=True)
        for before in older:
            shutil.rmtree(half, ignore_errors=True)
            try:
                copy_cache(self._folder / str(before), half)
                break
            except COPY_ERRORS as error:
                logger.warning("the answers under token %s cannot be taken over: %s", before, error)
                shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700, exist_ok=True)
        half.rename(own)
        for before in older:
            shutil.rmtree(self._folder / str(before), ignore_errors=True)

    def _tokens(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]

    def remove(self, token: int) -> None:
        """Forget the answers of this token and of those before it."""
        for known in self._tokens() if self._folder.is_dir() else []:
            if known <= token:
                shutil.rmtree(self._folder / str(known), ignore_errors=True)
        for folder in (self._folder, self._folder.parent):
            try:
                folder.rmdir()
            except OSError:  # a newer owner's, or another part's, is still there
                return
