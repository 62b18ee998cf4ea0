"""Every form of report, read back: nothing is lost, and no name becomes markup, a formula or a script."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import report_values as values
import yaml
from browser import NoBrowser, WatchedPage, chromium
from playwright.sync_api import Browser
from report_values import HOSTILE

from mlflow_lmms.report.board_sheet import board_sheet
from mlflow_lmms.report.comparison_sheet import comparison_sheet
from mlflow_lmms.report.csv_text import board_csv, comparison_csv
from mlflow_lmms.report.gate_junit import gate_junit
from mlflow_lmms.report.gate_markdown import gate_markdown
from mlflow_lmms.report.html_report import Heading, html_report
from mlflow_lmms.report.latex import latex_sheet, latex_text
from mlflow_lmms.report.markdown import markdown_sheet, markdown_text
from mlflow_lmms.report.model_index import left_out, model_index
from mlflow_lmms.report.range_mark import Axis

HEADING = Heading(f"Report {HOSTILE}", "http://mlflow", "2026-01-02 03:04 UTC", {"suite": HOSTILE}, "0.1.0")


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_of_a_board_holds_every_score_in_full() -> None:
    found = records(board_csv(values.board()))
    assert len(found) == 3 * 4 - 1 + 1
    first = next(record for record in found if record["task"] == "task_0")
    assert (float(first["value"]), float(first["low"]), first["rank_first"], first["rank_last"]) == (
        0.9,
        0.87,
        "1",
        "2",
    )
    (published,) = [record for record in found if record["source"].startswith("reported")]
    assert (published["value"], published["rank"]) == ("0.925", "")
    (doubtful,) = [record for record in found if record["flagged"]]
    assert (doubtful["flagged"], doubtful["rank"]) == ("empty_responses", "")


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_no_text_of_a_csv_is_a_formula_and_numbers_stay_numbers(name: str) -> None:
    told = values.comparison({"a": "base", "b": name})
    found = records(comparison_csv(told))
    assert {record["model"] for record in found} == {f"'{name}"}
    assert found[1]["difference"] == "-0.01"
    assert all(
        record["model"].startswith("'=") for record in records(board_csv(values.board())) if "cmd" in record["model"]
    )


def test_the_csv_of_a_comparison_holds_every_difference() -> None:
    found = records(comparison_csv(values.comparison()))
    assert [record["verdict"] for record in found] == [
        "better", "no difference shown", "not comparable", "worse", "no result",
    ]  # fmt: skip
    assert found[4]["difference"] == ""
    assert [record["flagged"] for record in found] == ["", "", "", "score_moved", ""]


def test_a_verdict_names_what_speaks_against_the_results() -> None:
    verdicts = [row[-1].text for row in comparison_sheet(values.comparison()).rows]
    assert (verdicts[0], verdicts[3]) == ("better", "worse; flagged: score moved")


def unescaped_pipes(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_keeps_its_columns_and_shows_names_as_they_are() -> None:
    for sheet in (board_sheet(values.board()), comparison_sheet(values.comparison())):
        lines = [line for line in markdown_sheet(sheet).splitlines() if line.startswith("|")]
        assert len(lines) == len(sheet.rows) + 2
        assert {unescaped_pipes(line) for line in lines} == {len(sheet.columns) + 1}
        assert "<script" not in "".join(lines)
    shown = markdown_text("a|b *c* [d](e) <f> `g`\nh & i")
    assert shown == r"a\|b \*c\* \[d\](e) &lt;f> \`g\` h &amp; i"
    assert markdown_text("$x$ and 1. no") == r"\$x\$ and 1. no"
    for text in ("# no heading", "- no list", "+ no list", "> no quotation"):
        assert markdown_text(text) == f"\\{text}"
    assert markdown_text("1. no list") == r"1\. no list"
    assert [markdown_text(text) for text in ("0.75", "+0.1", "#1–3")] == ["0.75", "+0.1", "#1–3"]


def test_many_tasks_stand_as_rows() -> None:
    sheet = board_sheet(values.board(models=2, tasks=9))
    assert (len(sheet.columns), len(sheet.rows)) == (4, 12)
    assert [row[0].text for row in sheet.rows[:3]] == ["win rate", "GPU-hours", "tokens"]
    assert sheet.rows[1][2].text == "1.5 none as good for less, of 2 of 3 runs"
    assert board_sheet(values.board() | {"overall": "weighted"}).columns[2] == "weighted score"
    assert len(board_sheet(values.board(models=3, tasks=4)).rows) == 3
    assert any("2 results over a part" in remark for remark in sheet.remarks)
    assert any("[1] empty responses" in remark for remark in sheet.remarks)
    assert any("reported by" in cell.text for row in sheet.rows for cell in row)


def test_latex_takes_no_name_for_a_command() -> None:
    text = latex_sheet(board_sheet(values.board()))
    assert r"\input{" not in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    body = [line for line in bare.splitlines() if line.endswith(r" \\")]
    assert {line.count("&") for line in body} == {8}
    assert bare.count("{") == bare.count("}")
    assert latex_text("50% & #1 a_b ~x ^y <z> –") == (
        r"50\% \& \#1 a\_b \textasciitilde{}x \textasciicircum{}y \textless{}z\textgreater{} --"
    )
    assert all(line.startswith("{}") for line in body), (
        "a row that begins with [ would be an option of the one before"
    )


def test_a_model_card_reads_back_with_ranked_results_alone() -> None:
    board = values.board()
    known = {"task_0": {"modality": "image", "dataset": "org/data"}}
    cards = yaml.safe_load(model_index(board, known))["model-index"]
    assert [card["name"] for card in cards] == [row["model"] for row in board["rows"]]
    assert [len(card["results"]) for card in cards] == [4, 4, 2]
    first = cards[0]["results"]
    by_task = {result["task"]["name"]: result for result in first}
    assert by_task["task_0"]["task"]["type"] == "image-text-to-text"
    assert by_task["task_0"]["dataset"] == {"type": "org/data", "name": "task_0"}
    assert by_task["task_1"]["task"]["type"] == "any-to-any"
    (metric,) = by_task["task_0"]["metrics"]
    assert metric["value"] == 0.9
    assert metric["args"] == {"n": 1500, "ci_low": 0.87, "ci_high": 0.92}
    assert left_out(board) == [f"{HOSTILE}, task_0: empty responses"]
    assert len(yaml.safe_load(model_index(board, {}, ["model-0 v1"]))["model-index"]) == 1


def test_a_model_card_is_what_the_hub_reads() -> None:
    from huggingface_hub import EvalResult, ModelCardData

    content = yaml.safe_load(model_index(values.board(hostile=False), {}))
    card = ModelCardData(**{"model-index": content["model-index"][:1]})
    assert card.eval_results is not None
    assert all(isinstance(result, EvalResult) for result in card.eval_results)
    assert {result.metric_value for result in card.eval_results} == {0.9, 0.89, 0.88, 0.87}


def test_junit_counts_what_did_not_pass_and_holds_any_name() -> None:
    told = values.gate()
    told["tasks"][0]["task"] = "bell \x07 and half \ud800 of a letter"
    root = ElementTree.fromstring(gate_junit(told).encode("utf-8"))
    (suite,) = root
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "7", "failures": "1", "errors": "2", "skipped": "1",
    }  # fmt: skip
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert len(cases) == 7
    assert cases["task_2"].find("failure") is not None
    assert cases[HOSTILE].find("error") is not None, "what is missing has not passed"
    assert list(cases["weighted mean"]) == []
    assert cases["kind=tiny"].find("skipped") is not None
    assert any("half \ufffd of" in (name or "") for name in cases)
    told["lenient_slices"] = True
    lenient = ElementTree.fromstring(gate_junit(told).encode("utf-8"))
    assert (lenient.get("errors"), lenient.get("skipped")) == ("1", "2")
    assert {p.get("name"): p.get("value") for p in suite.iter("property")}["suite_revision"] == "3"


def test_the_markdown_of_a_gate_shows_the_verdict_and_what_did_not_pass() -> None:
    text = gate_markdown(values.gate())
    assert text.startswith("## Gate: ❌ fail\n")
    assert "suite documents, revision 3" in text and "by ada" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {unescaped_pipes(line) for line in tables} == {10, 7}
    assert "no result" in text and "weighted mean of 2 of 3" in text
    assert "Groups of documents: 1 pass, 1 inconclusive, 1 not judged." in text
    assert "chart" not in text
    assert "<script" not in text


def test_marks_stand_between_the_ends_of_their_axis() -> None:
    axis = Axis.of([0.2, 0.8, None])
    mark = axis.mark(0.5, 0.2, 0.8)
    assert 0 < mark.start < mark.dot < mark.end < 100
    assert mark.dot == pytest.approx(50)
    assert mark.zero is None
    same = Axis.of([0.0, 0.0])
    assert same.mark(0.0, None, None).dot == pytest.approx(50)
    assert Axis.of([]).mark(0.5, None, None).dot == pytest.approx(50)


def test_html_runs_and_loads_nothing() -> None:
    text = html_report(HEADING, values.board(), [values.comparison()])
    assert "<script" not in text
    assert not re.search(r"\b(?:src|href|action|srcset|poster|data)\s*=", text.replace("data-", ""))
    assert not re.search(r"url\(|@import|\son\w+\s*=", text.replace(HOSTILE, ""))
    assert text.count("&lt;script&gt;") > 5
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    html_report(HEADING, {"columns": [], "rows": [], "verdicts": [], "left_out": []}).encode("utf-8")
    odd = values.board()
    odd["rows"][0]["model"] = "half \ud800"
    html_report(HEADING, odd).encode("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as found:
            yield found
    except NoBrowser as error:
        pytest.skip(str(error))


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 360])
def test_html_opens_without_a_network(browser: Browser, tmp_path: Path, theme: str, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_report(HEADING, values.board(), [values.comparison()]), encoding="utf-8")
    watched = WatchedPage(browser, width=width, theme="dark" if theme == "dark" else "light")
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(request.url))
    watched.page.on("dialog", lambda dialog: watched.problems.append(f"dialog: {dialog.message}"))
    watched.page.goto(file.as_uri())
    watched.page.locator("summary").click()
    assert asked == [file.as_uri()]
    assert watched.problems == []
    assert not watched.is_cut_off()
    assert watched.page.locator(".board tbody tr").count() == 3
    assert watched.page.locator(".board tbody th").nth(2).inner_text().startswith("=cmd|")
    assert watched.page.title() == f"Report {HOSTILE}"
    background = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 248)", "dark": "rgb(17, 23, 28)"}[theme]
    watched.close()
