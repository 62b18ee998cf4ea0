"""The pages *Suites*: all of them, one with its revisions, and the form that stores a new revision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from mlflow_lmms.errors import ConflictError, InvalidRequestError, LmmsError, NotAllowedError
from mlflow_lmms.suite import NOTE_LIMIT, Suite, SuiteHead, SuiteRevision, SuiteTask
from mlflow_lmms.task_plan import check_suite, leaves
from plugin_ui.pages.frame import render
from plugin_ui.permissions import SIGNED_IN, caller, requires
from plugin_ui.services import services

_EXAMPLE = """name: my-suite
description: What it is for.
tasks:
  - task: chartqa
    primary: relaxed_overall
    weight: 2
    margin: 0.01
  - docvqa_val
"""


@dataclass(frozen=True)
class SuitesContext:
    """What ``lmms/suites.html`` takes."""

    template: ClassVar[str] = "lmms/suites.html"

    suites: list[SuiteHead]
    yaml: str
    note: str
    problem: str


@dataclass(frozen=True)
class TaskLine:
    """One entry of a suite; `leaves` are the tasks that a group or tag stands for."""

    entry: SuiteTask
    leaves: list[str]


@dataclass(frozen=True)
class SuiteContext:
    """What ``lmms/suite.html`` takes."""

    template: ClassVar[str] = "lmms/suite.html"

    shown: SuiteRevision
    newest: bool
    author: str | None
    lines: list[TaskLine]
    trouble: str
    history: list[SuiteRevision]
    may_change: bool
    yaml: str
    note: str
    problem: str


@requires(SIGNED_IN)
def show_all() -> str:
    """Every suite, and the form for a new one."""
    return _all()


@requires(SIGNED_IN)
def show_one(name: str) -> str:
    """One revision of a suite (``?revision=``, default: the newest) and its history."""
    return _one(services().suites.get(name, request.args.get("revision", type=int)))


@requires(SIGNED_IN)
def store() -> ResponseReturnValue:
    """Store what the form holds: a new suite, or a revision of the one that it names."""
    core = services()
    text, note = request.form.get("yaml", ""), request.form.get("note", "").strip()
    base = request.form.get("base", type=int)
    who = caller()
    try:
        if len(note) > NOTE_LIMIT:
            raise InvalidRequestError(f"the note has {len(note)} characters; at most {NOTE_LIMIT} are kept")
        suite = Suite.from_yaml(text)
        check_suite(suite, core.catalogue())
        if base is None and core.suites.find(suite.name) is not None:
            raise ConflictError(
                f"there is a suite {suite.name!r} already: open it to change it, or name yours otherwise"
            )
        core.suites.put(suite, by=who.username, is_admin=who.is_admin, note=note, base=base)
    except (InvalidRequestError, NotAllowedError, ConflictError) as error:
        return _again(error, text, note, base), error.http_status
    return redirect(url_for("lmms.suite", name=suite.name), 303)


def _again(error: LmmsError, text: str, note: str, base: int | None) -> str:
    """The page that the form stood on, with what is wrong and all that was typed."""
    about = request.form.get("about", "")
    found = services().suites.find(about) if base is not None else None
    if found is None:
        return _all(text, note, error.message)
    return _one(found, text, note, error.message)


def _all(text: str = _EXAMPLE, note: str = "", problem: str = "") -> str:
    return render(SuitesContext(services().suites.heads(), text, note, problem))


def _one(shown: SuiteRevision, text: str | None = None, note: str = "", problem: str = "") -> str:
    core = services()
    history = core.suites.history(shown.name)
    author, who = core.suites.author(shown.name), caller()
    lines, trouble = _lines(shown.suite)
    context = SuiteContext(
        shown=shown,
        newest=shown.revision == history[0].revision,
        author=author,
        lines=lines,
        trouble=trouble,
        history=history,
        may_change=who.is_admin or who.username == author,
        yaml=shown.suite.as_yaml() if text is None else text,
        note=note,
        problem=problem,
    )
    return render(context)


def _lines(suite: Suite) -> tuple[list[TaskLine], str]:
    """The entries with their tasks; and why the suite cannot be run now, when this lmms-eval lacks a task of it."""
    try:
        found = leaves(suite, services().catalogue())
    except InvalidRequestError as error:
        return [TaskLine(entry, []) for entry in suite.tasks], error.message
    lines = [TaskLine(entry, found[entry.task]) for entry in suite.tasks]
    return [TaskLine(line.entry, [] if line.leaves == [line.entry.task] else line.leaves) for line in lines], ""
