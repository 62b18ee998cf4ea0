"""The pure parts of the pages: scales, slices, the board's rows, numbers as text, the form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flask import Flask

from mlflow_lmms.analysis.mean_interval import mean_interval
from mlflow_lmms.board import Board, Cell, Column, Row
from mlflow_lmms.board_overall import Overall
from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.column_ranks import Rank
from mlflow_lmms.reading.result_warnings import WarningName
from mlflow_lmms.samples import MediaReference, Sample
from mlflow_lmms.score import Score
from mlflow_lmms.task_result import (
    ErroredSamples,
    MetricResult,
    PrimaryMetric,
    Scale,
    SliceResult,
    StabilityResult,
    TaskResult,
    TaskWarning,
)
from plugin_ui import api, pages
from plugin_ui.pages.evaluation_form import empty_form, read_form
from plugin_ui.pages.evaluation_results import slice_charts, task_metrics
from plugin_ui.pages.formats import duration, file_size, score, short
from plugin_ui.pages.leaderboard import BoardRow, Filters, board_rows
from plugin_ui.pages.range_bar import Scale as BarScale
from plugin_ui.pages.result_findings import errored_lines, finding_groups, findings, group_lines, stability_lines
from plugin_ui.pages.samples import cost_words, media_words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.5, "0.500"),
        (1.0, "1.000"),
        (0.0042, "0.0042"),
        (0.0, "0.000"),
        (-1.7e-18, "0.000"),
        (83.251, "83.25"),
        (1523.4, "1523"),
    ],
)
def test_scores_align_in_a_column(value: float | None, text: str) -> None:
    assert score(value) == text


def test_numbers_times_and_sizes_are_said_as_people_say_them() -> None:
    assert [short(1.0), short(0.25)] == ["1", "0.25"]
    assert [duration(s) for s in (0.2, 59.4, 185, 8040)] == ["0 s", "59 s", "3 min 5 s", "2 h 14 min"]
    assert [file_size(n) for n in (None, 12, 1500, 23_400_000, 5_000_000_000)] == [
        "",
        "12 B",
        "1.5 kB",
        "23 MB",
        "5.0 GB",
    ]


def test_bars_of_one_column_share_their_scale() -> None:
    scale = BarScale.over([0.2, 0.4, None, 0.8])
    low, high = scale.bar(0.2, None, None), scale.bar(0.8, 0.5, 0.8)
    assert low.low == low.value == low.high == 4
    assert high.value == high.high == 96
    assert high.low == pytest.approx(50)
    assert BarScale.over([0.5]).bar(0.5, None, None).value == 50


def task_result(slices: list[SliceResult], *, higher: bool = True, binary: bool = True) -> TaskResult:
    metric = MetricResult(
        metric="acc", filter="none", value=0.5, higher_is_better=higher, binary=binary, n=40, per_sample=binary
    )
    other = MetricResult(metric="f1", filter="strict", value=0.4, n=40)
    return TaskResult(
        protocol=1,
        task="t",
        attempt=1,
        output_type="generate_until",
        samples=40,
        documents=40,
        metrics=(other, metric),
        primary=PrimaryMetric(metric="acc", filter="none", reason="declared"),
        fingerprint={},
        slices=tuple(slices),
        samples_file="s",
        scores_file="c",
    )


def piece(dimension: str, value: str, n: int, mean: float) -> SliceResult:
    return SliceResult(dimension=dimension, value=value, metric="acc", filter="none", n=n, score=mean)


def test_the_primary_metric_comes_first_with_the_interval_of_the_run() -> None:
    rows = task_metrics(task_result([]), {"t/acc::ci_low": 0.4, "t/acc::ci_high": 0.6})
    assert [(row.label, row.primary, row.low, row.high) for row in rows] == [
        ("acc", True, 0.4, 0.6),
        ("f1, strict", False, None, None),
    ]


def test_slices_have_wilson_intervals_and_the_worst_large_group_is_marked() -> None:
    groups = [piece("size", "large", 20, 0.9), piece("size", "small", 20, 0.5), piece("size", "rare", 3, 0.0)]
    (chart,) = slice_charts([task_result(groups)])
    assert [group.value for group in chart.groups if group.worst] == ["small"]
    assert [group.value for group in chart.groups if group.few] == ["rare"]
    assert chart.gap == pytest.approx(0.4)
    assert chart.apart is (chart.groups[1].high < chart.groups[0].low)  # type: ignore[operator]
    large = chart.groups[0]
    expected = mean_interval(np.array([1.0] * 18 + [0.0] * 2))
    assert expected is not None
    assert (large.low, large.high) == (expected.low, expected.high)


def test_where_lower_is_better_the_largest_score_is_the_worst_and_no_interval_is_made_up() -> None:
    groups = [piece("size", "a", 20, 3.5), piece("size", "b", 20, 9.0)]
    (chart,) = slice_charts([task_result(groups, higher=False, binary=False)])
    assert [group.value for group in chart.groups if group.worst] == ["b"]
    assert [group.low for group in chart.groups] == [None, None]


@pytest.mark.parametrize(("n", "apart"), [(12, False), (400, True)])
def test_a_gap_within_noise_is_told_from_one_beyond_it(n: int, apart: bool) -> None:
    (chart,) = slice_charts([task_result([piece("size", "a", n, 0.75), piece("size", "b", n, 0.5)])])
    assert chart.apart is apart


def test_the_widest_gap_comes_first_and_equal_groups_have_no_worst() -> None:
    groups = [
        piece("even", "x", 20, 0.5),
        piece("even", "y", 20, 0.5),
        piece("wide", "x", 20, 0.1),
        piece("wide", "y", 20, 1),
    ]
    charts = slice_charts([task_result(groups)])
    assert [chart.dimension for chart in charts] == ["wide", "even"]
    assert not any(group.worst for group in charts[1].groups)


def board() -> Board:
    def cell(model: str, task: str, value: float, rank: int | None, **changes: Any) -> Cell:
        given: dict[str, Any] = {"low": value - 0.1, "high": value + 0.1, "n": 10, "partial": False} | changes
        made = Score(
            run_id=f"{model}{task}",
            experiment_id="1",
            model=model,
            suite="s",
            task=task,
            metric="m",
            filter="none",
            value=value,
            higher_is_better=True,
            attempt=1,
            fingerprint={},
            recorded_at=0,
            **given,
        )
        place = Rank(rank, 2, tied=rank == 1, paired=True) if rank else None
        return Cell(made, place, note=None if rank else "not comparable: the documents differ")

    rows = (
        Row(
            "a",
            {"one": cell("a", "one", 0.5, 1), "two": cell("a", "two", 0.2, 2)},
            0.75,
            2,
            1,
            overall=Overall(0.75, 0.5, 1.0),
        ),
        Row("b", {"one": cell("b", "one", 0.6, 1)}, 0.5, 1, 2),
        Row("c", {"two": cell("c", "two", 0.9, None, partial=True, warnings=("below_chance",))}, None, 1, None),
    )
    return Board(tuple(Column(task, "m", "none", True) for task in ("one", "two")), rows)


def warnings_of(found: Score) -> tuple[TaskWarning, ...]:
    """As a run reader tells them."""
    return tuple(TaskWarning(name=name, message="Something is odd.", count=3, of=10) for name in found.warnings)


def rows_sorted(sort: str, descending: bool) -> list[BoardRow]:
    app = Flask(__name__)
    for blueprint in (*pages.BLUEPRINTS, *api.BLUEPRINTS):
        app.register_blueprint(blueprint)
    with app.test_request_context():
        return board_rows(board(), Filters(BoardQuery(), sort, descending), warnings_of)


@pytest.mark.parametrize(
    ("sort", "descending", "order"),
    [("", True, "abc"), ("one", True, "bac"), ("one", False, "abc"), ("two", True, "cab"), ("model", True, "cba")],
)
def test_rows_follow_the_column_and_a_missing_score_is_last_either_way(
    sort: str, descending: bool, order: str
) -> None:
    assert "".join(row.model for row in rows_sorted(sort, descending)) == order


def test_cells_lead_to_what_was_wrong_and_to_the_run_and_say_why_they_are_not_ranked() -> None:
    rows = {row.model: row for row in rows_sorted("", True)}
    first = rows["a"].cells[0]
    assert first is not None
    assert first.wrong_url == "/lmms/evaluations/aone/samples/one?wrong=1"
    assert first.run_url == "/lmms/evaluations/aone"
    assert first.rank == "#1–2"
    assert rows["b"].cells[1] is None
    unranked = rows["c"].cells[1]
    assert unranked is not None
    assert [(doubt.text, doubt.url) for doubt in unranked.doubts] == [
        ("not comparable: the documents differ", None),
        ("Below chance, 3 of 10", "/lmms/evaluations/ctwo#warnings"),
        ("over a part of the documents", None),
    ]
    assert rows["a"].overall is not None and rows["a"].overall.text == "75%"
    assert rows["a"].overall.note.startswith("50% to 100%")


def known() -> Catalogue:
    return Catalogue(tags={"digits": ["digits_vqa"]}, complete=True)


def test_every_problem_of_the_form_stands_by_its_field_and_nothing_typed_is_lost() -> None:
    sent = {"adapter": "a b", "tasks": "no_such_task", "limit": "many", "gen_kwargs": "temperature"}
    form = read_form(sent, known)
    assert form.request is None
    assert set(form.problems) == {"adapter", "tasks", "limit", "gen_kwargs"}
    assert "no_such_task" in form.problems["tasks"]
    assert {name: form.values[name] for name in sent} == sent


def test_a_sound_form_becomes_the_request() -> None:
    sent = {
        "model": "models:/m/3",
        "tasks": "digits",
        "limit": "8",
        "gen_kwargs": "temperature=0,until=[1,2]",
        "secrets": "A, B",
    }
    form = read_form(sent | {"batch_size": "4", "priority": "high"}, known)
    assert form.problems == {}
    assert form.request is not None
    assert form.request.tasks == ("digits",)
    assert form.request.limit == 8
    assert form.request.gen_kwargs == {"temperature": "0", "until": "[1,2]"}
    assert form.request.secrets == ("A", "B")


def test_a_secret_in_the_arguments_is_refused() -> None:
    form = read_form({"adapter": "openai", "model_args": "api_key=sk-123", "tasks": "digits"}, known)
    assert form.request is None
    assert "secret" in " ".join(form.problems.values())


def test_links_can_fill_the_form_in() -> None:
    assert empty_form({"tasks": "digits", "nonsense": "x"}).values["tasks"] == "digits"
    assert not math.isnan(float(empty_form({}).values["batch_size"]))


def samples_url(**asked: Any) -> str:
    return "&".join(f"{name}={value}" for name, value in asked.items())


def with_findings(**fields: Any) -> TaskResult:
    return task_result([]).model_copy(update=fields)


def test_a_warning_stands_in_words_with_examples_that_open_their_samples() -> None:
    warning = TaskWarning(
        name="empty_responses", message="30 of 40 samples have no answer.", count=30, of=40,
        examples=("document 12", "no document"),
    )  # fmt: skip
    harmless = TaskWarning(name="unknown_scale", message="Its scale is unknown.")
    first, second = findings([with_findings(warnings=(harmless, warning))], samples_url, offset=2)
    assert (first.title, first.message, first.counts) == ("Empty responses", warning.message, "30 of 40")
    assert [(e.text, e.url) for e in first.examples] == [("document 12", "task=t&offset=10"), ("no document", None)]
    assert (first.ranked, second.ranked, second.counts) == (False, True, "")


def test_warnings_of_one_class_stand_together_under_a_sentence_that_holds_for_all() -> None:
    def warned(task: str, *warnings: TaskWarning) -> TaskResult:
        return with_findings(task=task, warnings=warnings)

    missing = TaskWarning(name="samples_missing", message="There are none.")
    scales = [TaskWarning(name="unknown_scale", message=f"The scale of {name} is unknown.") for name in "fg"]
    strange = [TaskWarning(name="of_a_later_release", message=text) for text in "xy"]
    results = [warned("a", missing, *scales, strange[0]), warned("b", missing, strange[1])]
    groups = finding_groups(findings(results, samples_url))
    assert [(group.title, group.tasks, len(group.findings), group.ranked) for group in groups] == [
        ("Of a later release", 2, 2, False),
        ("Samples missing", 2, 2, True),
        ("Unknown scale", 1, 2, True),
    ]
    assert groups[0].sentence == ""
    assert groups[1].sentence == "There are none."
    assert groups[2].sentence.startswith("The scale of the score is unknown")
    assert [finding.message for finding in groups[2].findings] == [scale.message for scale in scales]


@pytest.mark.parametrize("name", list(WarningName))
def test_every_class_of_warnings_has_a_sentence_for_several_tasks(name: WarningName) -> None:
    results = [with_findings(warnings=(TaskWarning(name=name, message=text),)) for text in "xy"]
    (group,) = finding_groups(findings(results, samples_url))
    assert len(group.sentence) > 20


def test_errored_samples_are_counted_by_reason_with_what_the_policy_made_of_them() -> None:
    errored = ErroredSamples(count=5, reasons={"judge failed": 2, "blank answer": 3}, policy="drop", fail_above=0.2)
    (line,) = errored_lines([with_findings(errored=errored), task_result([])], samples_url)
    assert (line.counts, line.reasons, line.url) == ("5 of 40", "blank answer 3, judge failed 2", "task=t&errored=1")
    assert line.policy == "they are left out of the scores; more than 20.0% would fail the task"


def test_stability_and_groups_are_listed_where_there_are_any() -> None:
    stable = StabilityResult(k=3, metric="acc", filter="none", EA=0.5, CA=0.4, IV=0.1, CR=0.9)
    (line,) = stability_lines([with_findings(stability=stable), task_result([])])
    assert (line.task, line.label, line.values.k) == ("t", "acc", 3)
    told = {"metric": "acc", "filter": "strict", "value": 0.5, "n": 80, "rule": "declared", "reason": None}
    without = {"metric": "", "filter": "none", "value": None, "n": 0, "rule": "not declared", "reason": "they differ"}
    first, second = group_lines({"g": [told], "h": [without]})
    assert (first.group, first.label, first.value, first.n, first.reason) == ("g", "acc, strict", 0.5, 80, "")
    assert (second.value, second.reason, second.label) == (None, "they differ", "")


def test_a_metric_tells_its_scale_level_interval_and_what_is_odd_about_it() -> None:
    metric = MetricResult(
        metric="acc", filter="none", value=48.0, native=50.0, factor=100, level="sample", per_sample=True, n=36,
        binary=True, higher_is_better=True, scale=Scale(high=100, reason="mean of the samples"), missing=4,
        direction_reason="declared by the task",
    )  # fmt: skip
    corpus = MetricResult(
        metric="f1",
        filter="none",
        value=0.5,
        level="corpus",
        n=40,
        factor=None,
        low=0.4,
        high=0.6,
        method="bootstrap",
    )
    result = with_findings(metrics=(metric, corpus))
    first, second = task_metrics(result, {})
    assert (first.scale, first.scale_reason, first.level) == ("percent", "mean of the samples", "sample")
    assert first.note == "lmms-eval's own number is 50; 4 samples have no such score"
    assert first.low is not None and first.high is not None and 30 < first.low < 48 < first.high < 70
    assert (first.reason, first.direction_reason) == ("declared", "declared by the task")
    assert (second.scale, second.level, second.method, second.low) == ("unknown scale", "corpus", "bootstrap", 0.4)


def test_choices_of_the_form_reach_the_request() -> None:
    sent = {"adapter": "dummy", "suite": "charts@2", "primary": "a=acc:strict", "dimensions": "a=x,a=y"}
    form = read_form(sent | {"errored": "drop:0.1", "batch_size": "1", "priority": "normal"}, known)
    assert form.problems == {} and form.request is not None
    assert (form.request.suite, form.request.suite_revision) == ("charts", 2)
    assert form.request.primary == {"a": "acc:strict"} and form.request.dimensions == {"a": ("x", "y")}
    assert form.request.errored is not None and form.request.errored.fail_above == 0.1
    wrong = read_form({"adapter": "dummy", "tasks": "digits", "primary": "acc", "errored": "ignore"}, known)
    assert set(wrong.problems) == {"primary", "errored"}


def test_media_that_are_not_stored_and_what_a_sample_took_are_said_in_words() -> None:
    video = MediaReference("video", "video/mp4", None, 640, 480, 12.5, 2_500_000, False)
    assert media_words(video) == "video, 640 × 480, 12.5 s, 2.5 MB"
    assert media_words(MediaReference("audio", None, None, None, None, None, None, False)) == "audio"
    sample = Sample(0, 0, "h", "i", "t", (), {}, {}, {}, 0, tokens={"output": 3, "input": 512}, latency=0.8125)
    assert cost_words(sample) == "512 input tokens, 3 output tokens, 0.8125 s"
    assert cost_words(Sample(0, 0, "h", "i", "t", (), {}, {}, {}, 0)) == ""
