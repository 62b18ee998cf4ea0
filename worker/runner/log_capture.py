"""Turns every log record of the process (loguru, logging, warnings) into a log event.

Owns the level mapping. It writes nothing to stdout or stderr, so no line reaches the worker twice.
"""

from __future__ import annotations

import logging
from typing import Any

from loguru import logger

from worker.runner.events import EventWriter


def capture_logs(events: EventWriter) -> None:
    """Replace loguru's sinks and add a handler to the root logger; call it again after code that resets sinks."""
    logger.remove()
    logger.add(_LoguruSink(events), level="INFO", format="{message}", backtrace=False, diagnose=False)
    logging.captureWarnings(True)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _EventHandler)]:
        root.removeHandler(handler)
    root.addHandler(_EventHandler(events))


def level_name(number: int) -> str:
    """Name the protocol's level for a numeric one (both libraries use the same scale)."""
    if number >= logging.ERROR:
        return "ERROR"
    if number >= logging.WARNING:
        return "WARNING"
    return "INFO" if number >= logging.INFO else "DEBUG"


class _LoguruSink:
    def __init__(self, events: EventWriter) -> None:
        self._events = events

    def __call__(self, message: Any) -> None:
        record = message.record
        self._events.log(level_name(record["level"].no), str(message).rstrip("\n"), record["time"].timestamp())


class _EventHandler(logging.Handler):
    def __init__(self, events: EventWriter) -> None:
        super().__init__()
        self._events = events
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._events.log(level_name(record.levelno), self.format(record), record.created)
