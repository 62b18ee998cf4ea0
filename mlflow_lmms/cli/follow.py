"""Follows evaluations to their end: progress bars on a terminal, a line per step elsewhere."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mlflow_lmms.client import Client
from mlflow_lmms.errors import LmmsError
from mlflow_lmms.states import FINAL, State

_MARKS = {State.FINISHED: "[green]✓[/]", State.FAILED: "[red]✗[/]", State.CANCELLED: "[yellow]–[/]"}
_QUARTERS = 4
_LONGEST_PHASE = "generate"

Evaluation = dict[str, Any]
Message = tuple[str, Mapping[str, Any] | LmmsError | None]


def follow(client: Client, run_ids: Sequence[str], console: Console) -> list[Evaluation]:
    """Show how the evaluations get on until all have ended; return them as they are then, in the same order.

    Raises:
        LmmsError: the server refuses to tell.
    """
    evaluations = {run_id: client.evaluation(run_id) for run_id in run_ids}
    messages: queue.Queue[Message] = queue.Queue()
    for run_id in run_ids:
        # Daemons: a reader that waits for the server must not keep the process after Ctrl-C.
        threading.Thread(target=_read, args=(client, run_id, messages), daemon=True).start()
    display = _Bars(console) if console.is_terminal else _Lines(console)
    open_runs = set(run_ids)
    with display.live:
        while open_runs:
            run_id, message = messages.get()
            if isinstance(message, LmmsError):
                raise message
            if message is None:
                open_runs.discard(run_id)
            else:
                display.show(evaluations[run_id], message)
    return [client.evaluation(run_id) for run_id in run_ids]


def failed(evaluation: Evaluation) -> bool:
    """Whether an ended evaluation lacks a result."""
    return bool(evaluation["state"] != State.FINISHED)


def _read(client: Client, run_id: str, messages: queue.Queue[Message]) -> None:
    after: str | None = None
    try:
        while True:
            for event in client.events(run_id, after=after):
                after = event["id"] or after
                messages.put((run_id, {**event["data"], "kind": event["kind"]}))
            # The stream of a retried evaluation holds the end of its earlier attempt too.
            if State(client.evaluation(run_id)["state"]) in FINAL:
                break
        messages.put((run_id, None))
    except LmmsError as error:
        messages.put((run_id, error))


class _Display:
    """What both kinds of output share: who speaks of which task, and the line when a task has ended."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Any = nullcontext()
        self._ended: set[tuple[str, str, int]] = set()

    def show(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        if event["kind"] == "state":
            self.state(evaluation, event)
        elif event["kind"] == "progress":
            self.progress(evaluation, event if event["task"] is not None else _of_files(event))
        elif event["kind"] == "score":
            self.score(evaluation, event)

    def state(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        state, task = State(event["state"]), str(event["task"])
        key = (evaluation["run_id"], task, int(event["attempt"]))
        if state in FINAL and key not in self._ended:
            self._ended.add(key)
            score = "" if event.get("score") is None else f"  {event['metric']} {event['score']:.4g}"
            name = f"{escape(evaluation['model'])} · {escape(task)}"
            self.console.print(f"{_MARKS[state]} {name}  {state}{score}", highlight=False)

    def progress(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        """A step of a task."""

    def score(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        """A running score."""


def _of_files(event: Mapping[str, Any]) -> dict[str, Any]:
    """Progress in bytes of the files that all tasks load, in megabytes."""
    done, total = (-(-int(event[name]) // 10**6) for name in ("done", "total"))
    return {**event, "task": "files", "phase": "MB fetched", "done": done, "total": total}


class _Bars(_Display):
    """One bar for each evaluation that runs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]} [cyan]{task.fields[score]}[/]"),
            console=console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._task_of: dict[str, str] = {}

    def state(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        super().state(evaluation, event)
        if State(event["run_state"]) in FINAL and (bar := self._bars.pop(evaluation["run_id"], None)) is not None:
            self.live.remove_task(bar)

    def progress(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        run_id, task = evaluation["run_id"], event["task"]
        words = f"{escape(evaluation['model'])} · {escape(task)} · {event['phase']}"
        if run_id not in self._bars:
            self._bars[run_id] = self.live.add_task(words, total=event["total"], rate="", score="")
        if self._task_of.get(run_id) != task:
            self._task_of[run_id] = task
            self.live.reset(self._bars[run_id], rate="", score="")
        rate = f"{event['rate']:.3g}/s" if event.get("rate") else ""
        eta = f", {event['eta_s']:.0f} s left" if event.get("eta_s") else ""
        self.live.update(
            self._bars[run_id], description=words, total=event["total"], completed=event["done"], rate=f"{rate}{eta}"
        )

    def score(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        if (bar := self._bars.get(evaluation["run_id"])) is not None:
            interval = "" if event.get("low") is None else f" [{event['low']:.3f}, {event['high']:.3f}]"
            self.live.update(bar, score=escape(f"{event['metric']} {event['value']:.3f}{interval}"))


class _Lines(_Display):
    """A line at each quarter of a task's answers."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._quarter: dict[tuple[str, str], int] = {}

    def progress(self, evaluation: Evaluation, event: Mapping[str, Any]) -> None:
        if event["phase"] != _LONGEST_PHASE:
            return
        key = (evaluation["run_id"], str(event["task"]))
        quarter = _QUARTERS * int(event["done"]) // max(1, int(event["total"]))
        if quarter > self._quarter.get(key, 0):
            self._quarter[key] = quarter
            words = f"  {evaluation['model']} · {event['task']} · {event['done']} of {event['total']} answers"
            self.console.print(words, highlight=False, markup=False)
