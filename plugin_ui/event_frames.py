"""Live events as readers get them: one JSON text per entry, encoded once for every reader and both transports."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mlflow_lmms.live_events import Event


@dataclass(frozen=True)
class Frame:
    """One entry of a stream, or (without `id`) something that the server itself says to a reader.

    Attributes:
        id: the entry's id, by which reading resumes.
        kind: the entry's kind.
        text: the JSON of the entry: id, kind, part, token, time and its data side by side.
        sse: the same as a server-sent event named like its kind.
        owner: the run's part that wrote it, whose older tokens are dropped.
        token: the fencing token under which it was written.
        experiment_id: the run's experiment where the entry names it (the feed of all runs).
    """

    id: str
    kind: str
    text: str
    sse: bytes
    owner: str | None = None
    token: int | None = None
    experiment_id: str | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Where the entry stands in its stream."""
        return entry_order(self.id)


def entry_order(entry_id: str) -> tuple[int, int]:
    """The entry's id as numbers that sort as the stream does."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def entry_frame(event: Event) -> Frame:
    """Encode one entry."""
    entry = {"id": event.id, "kind": event.kind, "part": event.part, "token": event.token, "time": event.time}
    text = json.dumps({**event.data, **entry})
    return Frame(
        id=event.id,
        kind=event.kind,
        text=text,
        sse=f"id: {event.id}\nevent: {event.kind}\ndata: {text}\n\n".encode(),
        owner=None if event.part is None else f"{event.data.get('run_id', '')}.{event.part}",
        token=event.token,
        experiment_id=event.data.get("experiment_id"),
    )


def _notice(kind: str, message: str) -> Frame:
    text = json.dumps({"kind": kind, "message": message})
    return Frame(id="", kind=kind, text=text, sse=f"event: {kind}\ndata: {text}\n\n".encode())


EXPIRED = _notice("expired", "The live events of this run are gone; read its log artifact instead.")
TRIMMED = _notice("trimmed", "The oldest live events of this run are gone; its log artifact has the whole log.")
UNAVAILABLE = _notice("unavailable", "The queue server does not answer; live events go on when it does.")
AVAILABLE = _notice("available", "The queue server answers again.")
RECONNECT = _notice("reconnect", "This reader was too slow; reconnect from the last id.")
