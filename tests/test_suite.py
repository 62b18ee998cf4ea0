"""Suites: what is sound comes back unchanged through YAML, and what is not is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.plain_yaml import SIZE_LIMIT
from mlflow_lmms.suite import Suite, settings_by_task

DOCUMENTS = """
name: documents
description: What we look at before a release.
errored: {policy: wrong, fail_above: 0.05}
tasks:
  - task: chartqa
    primary: relaxed_overall
    weight: 2
    margin: 0.01
    dimensions: [question_type]
  - docvqa_val
"""


def test_a_suite_is_read_from_yaml_and_written_back_as_the_same() -> None:
    suite = Suite.from_yaml(DOCUMENTS)
    chartqa, docvqa = suite.tasks
    assert (chartqa.primary, chartqa.weight, chartqa.margin) == ("relaxed_overall", 2.0, 0.01)
    assert (docvqa.task, docvqa.primary, docvqa.weight, docvqa.margin) == ("docvqa_val", None, 1.0, None)
    assert suite.errored is not None and suite.errored.fail_above == 0.05
    assert Suite.from_yaml(suite.as_yaml()) == suite
    assert Suite.parse(suite.as_json()) == suite


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters=",/\\ "),
    min_size=1,
    max_size=30,
)
entries = st.fixed_dictionaries(
    {"task": names},
    optional={
        "primary": names,
        "weight": st.floats(1e-6, 1000),
        "margin": st.floats(0, 1000),
        "dimensions": st.lists(names, max_size=3),
    },
)


@given(tasks=st.lists(entries, min_size=1, max_size=5, unique_by=lambda entry: entry["task"]))
def test_every_suite_survives_yaml(tasks: list[dict[str, Any]]) -> None:
    suite = Suite.parse({"name": "s", "tasks": tasks})
    assert Suite.from_yaml(suite.as_yaml()) == suite


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [a]", "name: Field required"),
        ("name: s", "tasks: Field required"),
        ("name: s\ntasks: []", "tasks: name at least one"),
        ("name: s\ntasks: [a, a]", "named twice: a"),
        ("name: a b\ntasks: [a]", "name"),
        ("name: s\ntasks: [../a]", "tasks.0.task"),
        ("name: s\ntasks: [2020-01-01]", "tasks.0: Input should be a valid dictionary"),
        ("name: s\ntasks: [{task: 2020-01-01}]", "tasks.0.task: Input should be a valid string"),
        ("name: s\ntasks: [{task: a, weight: 0}]", "tasks.0.weight"),
        ("name: s\ntasks: [{task: a, weight: .nan}]", "tasks.0.weight"),
        ("name: s\ntasks: [{task: a, weight: 1001}]", "tasks.0.weight"),
        ("name: s\ntasks: [{task: a, margin: -0.1}]", "tasks.0.margin"),
        ("name: s\ntasks: [{task: a, margin: .inf}]", "tasks.0.margin"),
        ("name: s\ntasks: [{task: a, wieght: 1}]", "tasks.0.wieght: no such field; there are task, primary, weight"),
        ("name: s\ntasks: [a]\nowner: me", "owner: no such field; there are name, description, tasks"),
        ("name: s\ntasks: [a]\nerrored: {policy: ignore}", "errored.policy"),
        ("name: s\ntasks: [a]\nerrored: {fail_above: 2}", "errored.fail_above"),
        ("- a\n- b", "expected a mapping with name and tasks, got list"),
        ("", "got NoneType"),
        ("name: s\nname: t\ntasks: [a]", "line 2: 'name' stands here twice"),
        ("name: s\ntasks: &t [a]\nother: *t", "line 3: write the value out, aliases"),
        ("? [1]\n: 2", "a key must be a plain value"),
        ("name: !!python/object/apply:os.system [ls]", "line 1: could not determine a constructor"),
        ("[" * 100_000, "nested deeper than 20 levels"),
        ("a: b: c", "line 1"),
        ("name: s\ntasks: [a]\ndescription: \x00", "character"),
        ("x" * (SIZE_LIMIT + 1), "at most 500000 are read"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Suite.from_yaml(text, "s.yaml")
    assert caught.value.message.startswith("s.yaml") and words in caught.value.message
    assert len(caught.value.message) < 2000


def test_too_many_tasks_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at most 2000"):
        Suite.parse({"name": "s", "tasks": [f"t{number}" for number in range(2001)]})


def test_the_tasks_of_a_group_have_its_settings() -> None:
    suite = Suite.parse({"name": "s", "tasks": [{"task": "group", "weight": 3}, "single"]})
    found = settings_by_task(suite, {"group": ["a", "b"], "single": ["single"]})
    assert {task: entry.weight for task, entry in found.items()} == {"a": 3.0, "b": 3.0, "single": 1.0}


def test_a_task_that_a_group_brings_again_is_refused() -> None:
    suite = Suite.parse({"name": "s", "tasks": ["group", "a"]})
    with pytest.raises(InvalidRequestError, match="has a twice, by group and by a"):
        settings_by_task(suite, {"group": ["a", "b"], "a": ["a"]})
