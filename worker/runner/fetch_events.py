"""What a fetch tells the process that started it: one JSON object a line on an inherited descriptor.

Owns the wire format of fetch events. Where files come from is not known here.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Any

DESCRIPTOR_VARIABLE = "LMMS_EVENT_FD"


class FetchError(Exception):
    """Why something cannot be fetched, in words for people."""


class FetchEvents:
    """Tells of one item at a time. Safe to call from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._item = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> FetchEvents:
        """Take the descriptor that the starting process named; without one, tell it on stdout."""
        descriptor = int(environ.get(DESCRIPTOR_VARIABLE) or 1)
        os.set_inheritable(descriptor, False)
        return cls(descriptor)

    def begin(self, item: str) -> None:
        """Speak of this item from now on."""
        self._item = item
        self.tell("fetching")

    def tell(self, state: str, done: int = 0, total: int | None = None, message: str = "") -> None:
        """Say how far the item is: ``waiting``, ``fetching``, ``done`` or ``failed``; in bytes."""
        event: dict[str, Any] = {"event": "fetch", "item": self._item, "state": state}
        line = json.dumps({**event, "done": done, "total": total, "message": message}) + "\n"
        with self._lock:
            try:
                os.write(self._descriptor, line.encode())
            except BrokenPipeError:
                os._exit(1)  # nobody waits for it any more
