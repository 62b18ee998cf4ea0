"""What stands around every page: MLflow's own entries, our tabs, who is signed in. And how a page is rendered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from flask import render_template, request, url_for
from mlflow.version import VERSION

from mlflow_lmms.errors import UnauthenticatedError
from plugin_ui.permissions import caller


@dataclass(frozen=True)
class Link:
    """One entry of a list of links."""

    text: str
    href: str
    icon: str = ""
    active: bool = False


@dataclass(frozen=True)
class Frame:
    """Everything that the frame shows. `user` is None where nobody has to sign in or nobody has yet."""

    mlflow_root: str
    mlflow_version: str
    mlflow_links: tuple[Link, ...]
    tabs: tuple[Link, ...]
    user: str | None
    account_url: str | None
    sign_out_url: str | None


class Context(Protocol):
    """A page's context: a dataclass whose fields are the template's variables."""

    template: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


#: Route below MLflow's page, text, icon.
_MLFLOW_PAGES = (
    ("/", "Home", "home"),
    ("/experiments", "Experiments", "experiments"),
    ("/models", "Model registry", "models"),
    ("/prompts", "Prompts", "prompts"),
    ("/gateway", "AI Gateway", "gateway"),
)
#: Endpoint, text, icon, and the endpoints of the pages below it.
_TABS = (
    ("lmms.leaderboard", "Leaderboard", "leaderboard", frozenset({"lmms.leaderboard"})),
    (
        "lmms.evaluations",
        "Evaluations",
        "evaluations",
        frozenset({"lmms.evaluations", "lmms.evaluation", "lmms.samples"}),
    ),
    ("lmms.fleet", "Fleet", "fleet", frozenset({"lmms.fleet", "lmms.change_box"})),
    ("lmms.suites", "Suites", "suites", frozenset({"lmms.suites", "lmms.suite", "lmms.store_suite"})),
    (
        "lmms.new_evaluation",
        "New evaluation",
        "new",
        frozenset({"lmms.new_evaluation", "lmms.submit_evaluation", "lmms.paste_command"}),
    ),
)


def mlflow_url(route: str) -> str:
    """Address of one of MLflow's own pages, behind the static prefix or proxy path that this request came through."""
    return f"{request.script_root}/#{route}"


def page_frame() -> Frame:
    """The frame of the current request's page."""
    try:
        user = caller().username
    except UnauthenticatedError:
        user = None
    return Frame(
        mlflow_root=f"{request.script_root}/",
        mlflow_version=VERSION,
        mlflow_links=tuple(Link(text, mlflow_url(route), icon) for route, text, icon in _MLFLOW_PAGES),
        tabs=tuple(Link(text, url_for(to), icon, request.endpoint in below) for to, text, icon, below in _TABS),
        user=user,
        account_url=url_for("lmms_sign_in.password") if user is not None else None,
        sign_out_url=url_for("lmms_sign_in.logout") if user is not None else None,
    )


def render(context: Context) -> str:
    """Render the context's template with exactly the context's fields."""
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    return render_template(context.template, **values)
