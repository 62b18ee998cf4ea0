"""The page *New evaluation*: the form, and the submission of what it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from mlflow_lmms.errors import (
    InvalidRequestError,
    LmmsError,
    NotAllowedError,
    NotFoundError,
    UnauthenticatedError,
)
from mlflow_lmms.lmms_eval_command import read_command
from mlflow_lmms.request import EvaluationRequest
from mlflow_lmms.suite import SuiteRevision
from plugin_ui.pages.evaluation_form import (
    LABELS,
    LAUNCHES,
    MORE,
    PLACE,
    PRIORITIES,
    FilledForm,
    empty_form,
    form_of,
    read_form,
)
from plugin_ui.pages.experiments import ExperimentChoice, experiment_choices
from plugin_ui.pages.frame import render
from plugin_ui.pages.trouble import Trouble, look_at_queue
from plugin_ui.permissions import EDIT, READ, readable_experiments, requires
from plugin_ui.readable_models import readable_models
from plugin_ui.services import services
from plugin_ui.submit_request import submit_for_caller


@dataclass(frozen=True)
class ModelChoice:
    """One registered version that can be evaluated."""

    uri: str
    label: str


@dataclass(frozen=True)
class NewEvaluationContext:
    """What ``lmms/new_evaluation.html`` takes."""

    template: ClassVar[str] = "lmms/new_evaluation.html"

    values: dict[str, str]
    problems: dict[str, str]
    labels: dict[str, str]
    models: list[ModelChoice]
    suites: list[SuiteRevision]
    known_tasks: list[str]
    known_secrets: list[str]
    experiments: list[ExperimentChoice]
    default_experiment: str
    priorities: tuple[str, ...]
    launches: tuple[str, ...]
    more_open: bool
    place_open: bool
    left_out: tuple[str, ...]
    pasted_problem: str | None
    trouble: Trouble | None
    tasks_url: str


@requires(READ)
def show() -> str:
    """The empty form; ``?model= &tasks=`` and so on fill fields in."""
    return _page(empty_form(request.args))


@requires(EDIT)
def submit() -> ResponseReturnValue:
    """Queue what was asked for and go to its page, or show the form again with what is wrong."""
    form = read_form(request.form, services().catalogue)
    if form.request is None:
        return _page(form), 400
    try:
        submitted = submit_for_caller(form.request)
    except UnauthenticatedError:
        raise
    except LmmsError as error:
        return _page(replace(form, problems={_at_fault(error, form.request): error.message})), error.http_status
    return redirect(url_for("lmms.evaluation", run_id=submitted.run_id), 303)


def _at_fault(error: LmmsError, asked: EvaluationRequest) -> str:
    """The field that an error at submission is about, where it can be told."""
    if isinstance(error, NotAllowedError):
        return "experiment"
    if isinstance(error, NotFoundError):
        return "suite" if asked.suite is not None and repr(asked.suite) in error.message else "model"
    if isinstance(error, InvalidRequestError):
        named = next((name for name in ("primary", "dimensions") if error.message.startswith(f"{name}: ")), None)
        return named or ("suite" if asked.suite is not None and not asked.tasks else "")
    return ""


@requires(READ)
def paste() -> ResponseReturnValue:
    """Fill the form in from a command of lmms-eval; it may hold a secret and is not shown again."""
    try:
        pasted = read_command(request.form.get("command", ""))
        return _page(form_of(pasted.request), pasted.left_out)
    except InvalidRequestError as error:
        return _page(empty_form({}), pasted_problem=error.message), error.http_status


def _page(form: FilledForm, left_out: tuple[str, ...] = (), pasted_problem: str | None = None) -> str:
    core = services()
    catalogue = core.catalogue()
    versions = readable_models()
    context = NewEvaluationContext(
        values=form.values,
        problems=form.problems,
        labels=LABELS,
        models=[ModelChoice(f"models:/{v.name}/{v.version}", f"{v.name} v{v.version}") for v in versions],
        suites=[head.newest for head in core.suites.heads()],
        known_tasks=[*catalogue.groups, *(task.name for task in catalogue.search() if task.own)],
        known_secrets=list(core.settings.secrets_offered),
        experiments=experiment_choices(core.client, readable_experiments()),
        default_experiment=core.settings.experiment,
        priorities=PRIORITIES,
        launches=LAUNCHES,
        more_open=_filled(form, MORE),
        place_open=_filled(form, PLACE),
        left_out=left_out,
        pasted_problem=pasted_problem,
        trouble=look_at_queue(core).trouble,
        tasks_url=url_for("lmms_api.search_tasks"),
    )
    return render(context)


def _filled(form: FilledForm, names: tuple[str, ...]) -> bool:
    """Whether one of these fields is not as an empty form has it, or has a problem."""
    untouched = empty_form({}).values
    return any(form.values[name] != untouched[name] or name in form.problems for name in names)
