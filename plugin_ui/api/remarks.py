"""Notes on runs, results and samples, and corrections of results. Both are only ever added to."""

from __future__ import annotations

from typing import Annotated, Self

from flask import jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mlflow_lmms.errors import InvalidRequestError, NotFoundError
from mlflow_lmms.notes import NotesAsked
from mlflow_lmms.recorded_run import recorded_tasks
from mlflow_lmms.request import TaskName
from mlflow_lmms.result_correction import CorrectionRequest
from plugin_ui.api.parsing import parse_body, short_text, whole_number
from plugin_ui.permissions import EDIT, READ, caller, readable_experiments, require_run, requires
from plugin_ui.services import services

_MOST_RUNS = 500
_MOST = 10**9


class NewNote(BaseModel):
    """A note on a run; with a task on its result, with a sample on that row of the task's samples."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$", max_length=4000)]
    task: TaskName | None = None
    sample: int | None = Field(None, ge=0, le=_MOST, strict=True)

    @model_validator(mode="after")
    def _sample_of_a_task(self) -> Self:
        if self.sample is not None and self.task is None:
            raise ValueError("sample: name the task that the sample is of")
        return self


@requires(EDIT, run="run_id")
def add_note(run_id: str) -> ResponseReturnValue:
    """Add a note; who may edit the experiment may."""
    core, body = services(), parse_body(NewNote)
    document = None
    if body.task is not None:
        _check_task(run_id, body.task)
    if body.task is not None and body.sample is not None:
        document = _document(run_id, body.task, body.sample)
    note = core.notes.add(
        require_run(EDIT, run_id),
        run_id,
        body.text.strip(),
        by=caller().username,
        task=body.task,
        sample=body.sample,
        document=document,
    )
    return jsonify(note.as_json()), 201


@requires(READ)
def search_notes() -> ResponseReturnValue:
    """Notes of what the caller may read, newest first: ``?run= … &task= &sample= &before= &limit=``.

    An empty task: notes on whole runs; `before` is the id of the last note that was seen.
    """
    sample = whole_number("sample", -1, 0, _MOST)
    asked = NotesAsked(readable_experiments(), _run_ids(), short_text("task"), None if sample < 0 else sample)
    notes = services().notes
    found = notes.search(asked, before=_before(), limit=whole_number("limit", 100, 1, 1000))
    return jsonify({"notes": [note.as_json() for note in found], "total": notes.count(asked)})


@requires(EDIT, run="run_id")
def correct_result(run_id: str) -> ResponseReturnValue:
    """Invalidate, re-score or restore the result of a task; boards show it when this has answered."""
    body = parse_body(CorrectionRequest)
    done = services().result_correction.correct(run_id, body, by=caller().username)
    return jsonify(done.as_json()), 201


@requires(READ)
def search_corrections() -> ResponseReturnValue:
    """Corrections of what the caller may read, newest first: ``?run= … &task= &before= &limit=``."""
    found = services().corrections.search(
        readable_experiments(),
        run_ids=_run_ids(),
        task=short_text("task"),
        before=_before(),
        limit=whole_number("limit", 100, 1, 1000),
    )
    return jsonify({"corrections": [correction.as_json() for correction in found]})


def _check_task(run_id: str, task: str) -> None:
    tasks = recorded_tasks(services().client.get_run(run_id).data.tags)
    if task not in tasks:
        has = ", ".join(tasks[:20]) or "no results"
        raise NotFoundError(f"run {run_id} has no result of task {task!r}; it has {has}")


def _document(run_id: str, task: str, sample: int) -> str | None:
    """The key of the sample's document."""
    page = services().reader.samples(run_id, task, offset=sample, limit=1)
    if not page.samples:
        raise NotFoundError(f"task {task} of run {run_id} has {page.total} samples, there is no number {sample}")
    return page.samples[0].doc_hash or page.samples[0].row_key


def _run_ids() -> list[str]:
    run_ids = list(dict.fromkeys(request.args.getlist("run")))
    if len(run_ids) > _MOST_RUNS or any(not run_id or len(run_id) > 64 or "\x00" in run_id for run_id in run_ids):
        raise InvalidRequestError(f"run: expected ids of runs, at most {_MOST_RUNS}, got {len(run_ids)}")
    return run_ids


def _before() -> int | None:
    return whole_number("before", 0, 1, 2**31 - 1) or None
