"""Names of results in an MLflow run: MLflow takes every one of them, and each can be taken apart again."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils import validation

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.names import (
    NAME_LIMIT,
    Artifact,
    MetricName,
    Tag,
    cut,
    escape,
    unescape,
    was_cut,
)

MLFLOW: Any = validation  # its functions have no types

#: Pieces that escapes are made of, mixed with anything at all.
PARTS = st.lists(
    st.sampled_from([".", ".x", ".x0041.", "x", "0041", ":", "/", "::", "+", " ", "none", "名"])
    | st.text(max_size=8),
    max_size=8,
).map("".join)
NAMES = st.builds(
    MetricName,
    task=PARTS,
    metric=PARTS,
    filter=PARTS,
    statistic=st.none() | PARTS,
) | st.builds(
    MetricName,
    task=PARTS,
    metric=PARTS,
    filter=PARTS,
    dimension=PARTS,
    value=PARTS,
    statistic=st.none() | PARTS,
)


@pytest.fixture(scope="session")
def metric_names(catalogue: Catalogue) -> set[str]:
    """Every metric name that the catalogue knows of."""
    return {metric.name for task in catalogue.tasks.values() for metric in task.metrics}


def accepted(name: str) -> None:
    """Raise MLflow's own error when it does not take this metric name."""
    MLFLOW._validate_metric_name(name)
    assert len(name) <= NAME_LIMIT


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (MetricName("mmmu_val", "mmmu_acc").of("stderr"), "mmmu_val/mmmu_acc::stderr"),
        (
            MetricName("gsm8k", "exact_match", "flexible-extract").of("ci_low"),
            "gsm8k/exact_match:flexible-extract::ci_low",
        ),
        (
            MetricName("mme", "score", dimension="category", value="OCR").of("n"),
            "mme/score/category:OCR::n",
        ),
        (
            MetricName("t", "m", "f", dimension="d", value="v"),
            "t/m:f/d:v",
        ),
        (MetricName("refcoco+_bbox_val", "IoU"), "refcoco.x002B._bbox_val/IoU"),
        (MetricName("t", "R@0.5"), "t/R.x0040.0.5"),
        (MetricName("t", "m", dimension="d", value=""), "t/m/d:.x."),
    ],
)
def test_a_metric_is_called_as_the_design_says(name: MetricName, text: str) -> None:
    assert str(name) == text
    assert MetricName.parse(text) == name


@given(PARTS)
@example(".x0041.")
@example("..")
@example(".x.")
@example("\U0001f600.")
def test_escaping_is_undone_by_unescaping(part: str) -> None:
    assert unescape(escape(part)) == part


@given(PARTS, PARTS)
def test_different_parts_have_different_escapes(one: str, two: str) -> None:
    assert (escape(one) == escape(two)) == (one == two)


@given(PARTS)
def test_an_escaped_part_is_a_safe_path_segment(part: str) -> None:
    escaped = escape(part)
    assert not MLFLOW.path_not_unique(f"a/{escaped}/b")
    assert set(escaped) <= set(string.ascii_letters + string.digits + "_-. ")


@given(NAMES)
def test_mlflow_takes_every_name_and_it_can_be_taken_apart(name: MetricName) -> None:
    accepted(cut(str(name)))
    assert MetricName.parse(str(name)) == name


@given(NAMES, NAMES)
def test_different_metrics_have_different_names(one: MetricName, two: MetricName) -> None:
    assert (cut(str(one)) == cut(str(two))) == (one == two)


def test_every_task_and_metric_of_lmms_eval_has_a_name(catalogue: Catalogue, metric_names: set[str]) -> None:
    assert len(metric_names) > 900
    for task in catalogue.tasks:
        name = MetricName(task, "exact_match", "flexible-extract")
        accepted(cut(str(name.of("ci_low"))))
        assert MetricName.parse(str(name)) == name
    for metric in metric_names:
        name = MetricName("task", metric, dimension="category", value="science & technology")
        accepted(cut(str(name.of("ci_high"))))
        assert MetricName.parse(str(name)) == name


@pytest.mark.parametrize("length", [NAME_LIMIT, NAME_LIMIT + 1, 3000])
def test_a_long_name_is_cut_to_what_mlflow_takes(length: int) -> None:
    name = "t/" + "m" * (length - 2)
    shown = cut(name)
    accepted(shown)
    assert was_cut(shown) == (length > NAME_LIMIT)
    assert (shown == name) == (length <= NAME_LIMIT)


def test_long_names_that_begin_alike_stay_apart() -> None:
    start = "t/" + "m" * 300
    assert cut(start + "a") != cut(start + "b")
    assert Tag.whole_name(cut(start + "a")) != Tag.whole_name(cut(start + "b"))


def test_a_cut_name_is_not_mistaken_for_a_whole_one() -> None:
    assert MetricName.parse(cut("t/" + "m" * 300)) is None


@pytest.mark.parametrize(
    "foreign", ["loss", "", "a/b/c", "a:b", "system/cpu%", "/", "a/b::c::d", "a//b", "t/m:f:g", "t/m/d"]
)
def test_a_metric_of_somebody_else_is_none_of_ours(foreign: str) -> None:
    assert MetricName.parse(foreign) is None


@pytest.mark.parametrize("foreign", [".x110000./m", "t/.xFFFFFF.", "t/.x0041.", "t/m:none"])
def test_a_name_that_we_would_write_differently_is_none_of_ours(foreign: str) -> None:
    assert MetricName.parse(foreign) is None


@given(st.text(min_size=1, max_size=250))
@example("名" * 250)
def test_mlflow_takes_the_tags_of_every_task(task: str) -> None:
    for tag in (Tag.task_state(task), Tag.primary(task), Tag.worst(task), Tag.fingerprint(task)):
        MLFLOW._validate_tag_name(tag)
        assert len(tag) <= 250


@given(st.text(min_size=1, max_size=250), st.text(min_size=1, max_size=250))
@example("名" * 250, "名" * 249)
def test_tags_of_different_tasks_stay_apart(one: str, two: str) -> None:
    assert (Tag.primary(one) == Tag.primary(two)) == (one == two)


@given(st.text(min_size=1, max_size=250))
def test_artifact_paths_stay_inside_their_folder(task: str) -> None:
    for path in (Artifact.samples(task), Artifact.scores(task), Artifact.task_result(task)):
        assert path.count("/") == 2
        assert not MLFLOW.path_not_unique(path)
