"""Every template takes exactly the fields of its context: none that is missing, none that is left unused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader, meta, nodes

from plugin_ui.pages import evaluation, evaluations, fleet, leaderboard, new_evaluation, samples, suites
from plugin_ui.pages.formats import FILTERS

TEMPLATES = Path(evaluation.__file__).parents[1] / "templates"
CONTEXTS = (
    evaluation.EvaluationContext,
    evaluations.EvaluationsContext,
    fleet.FleetContext,
    leaderboard.LeaderboardContext,
    new_evaluation.NewEvaluationContext,
    samples.SamplesContext,
    suites.SuitesContext,
    suites.SuiteContext,
)
#: What Flask and our blueprint give to every template.
GLOBALS = {"url_for", "page_frame"}


def environment() -> Environment:
    found = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    found.filters.update(FILTERS)
    return found


def used_names(template: str) -> set[str]:
    jinja = environment()
    parsed = jinja.parse((TEMPLATES / template).read_text(encoding="utf-8"))
    # Blocks see what a template imports, defines and sets outside of them, which Jinja's own analysis does not know.
    imported = {name for found in parsed.find_all(nodes.FromImport) for name in found.names}
    defined = {macro.name for macro in parsed.find_all(nodes.Macro)}
    assigned = {found.target.name for found in parsed.find_all(nodes.Assign) if isinstance(found.target, nodes.Name)}
    return meta.find_undeclared_variables(parsed) - GLOBALS - {"caller"} - imported - defined - assigned


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.template)
def test_template_takes_exactly_the_fields_of_its_context(context: Any) -> None:
    assert used_names(context.template) == {field.name for field in fields(context)}


@pytest.mark.parametrize("shared", ["lmms/base.html", "lmms/_macros.html"])
def test_what_pages_share_needs_nothing_from_their_contexts(shared: str) -> None:
    assert used_names(shared) == set()


def test_every_page_template_has_a_context() -> None:
    ours = {path.name for path in (TEMPLATES / "lmms").glob("*.html")}
    others = {"base.html", "_macros.html", "error.html", "login.html", "password.html"}
    assert ours - others == {Path(context.template).name for context in CONTEXTS}


def test_no_template_marks_anything_as_safe_or_carries_code_and_style_in_line() -> None:
    for path in (TEMPLATES / "lmms").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        parsed = environment().parse(text)
        assert "safe" not in {found.name for found in parsed.find_all(nodes.Filter)}, path.name
        assert "style=" not in text and "<style" not in text, path.name
        assert "onclick" not in text and "javascript:" not in text, path.name
        assert all("src=" in tag for tag in text.split("<script")[1:]), path.name
