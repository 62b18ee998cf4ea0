"""Makes every tqdm bar of the process report to one listener instead of drawing itself.

Owns the patch of tqdm. It is applied at class level and before lmms-eval is imported, which reaches every style of
import; a drawn bar would only fill the log with carriage returns.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Protocol

from worker.runner.progress import Bar

_ARGUMENTS_BEFORE_FILE = 4  # tqdm(iterable, desc, total, leave, file, …)


class BarListener(Protocol):
    """Who wants to know of bars."""

    def bar_opened(self, bar: Bar) -> None:
        """A bar appeared."""

    def bar_moved(self, bar: Bar) -> None:
        """A bar's count changed."""

    def bar_closed(self, bar: Bar) -> None:
        """A bar has ended."""


def watch_bars(listener: BarListener) -> None:
    """Tell `listener` about every enabled bar from now on."""
    bar_class: Any = importlib.import_module("tqdm.std").tqdm
    void = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (as long as the process lives)
    original_init, original_update, original_close = bar_class.__init__, bar_class.update, bar_class.close

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) <= _ARGUMENTS_BEFORE_FILE:
            kwargs["file"] = void
        original_init(self, *args, **kwargs)
        if not self.disable:
            listener.bar_opened(self)

    def update(self: Any, n: float | None = 1) -> Any:
        told = original_update(self, n)
        if not self.disable:
            listener.bar_moved(self)
        return told

    def close(self: Any) -> None:
        was_open = not getattr(self, "disable", True)
        original_close(self)
        if was_open:
            listener.bar_closed(self)

    bar_class.__init__, bar_class.update, bar_class.close = init, update, close
