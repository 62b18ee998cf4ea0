"""`mlflow-lmms catalog` and its commands, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_lmms.catalogue import Catalogue
from mlflow_lmms.cli.main import run


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue) -> None:
    """Reading takes a second; the session's catalogue will do."""
    monkeypatch.setattr("mlflow_lmms.catalogue.build.read_catalogue", lambda folders: catalogue)
    for module in ("catalog", "catalog_show"):
        monkeypatch.setattr(f"mlflow_lmms.cli.{module}.load_catalogue", lambda: catalogue)
    monkeypatch.setattr("mlflow_lmms.cli.catalog_read.load_catalogue", lambda: catalogue)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command answers as JSON."""
    assert run(["catalog", *arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_tasks_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    answer = asked(capsys)
    assert (answer["total"], answer["of"], len(answer["tasks"])) == (1713, 1713, 1713)
    (mme,) = (task for task in answer["tasks"] if task["name"] == "mme")
    assert (mme["modality"], mme["category"]) == ("image", "general")


@pytest.mark.parametrize(
    ("arguments", "some", "none"),
    [
        (["--modality", "audio"], "librispeech_test_clean", "mme"),
        (["--category", "charts"], "chartqa", "mme"),
        (["--search", "CHART qa"], "chartqapro", "mme"),
        (["--language", "russian"], "gqa-ru", "gqa"),
        (
            ["--modality", "video", "--modality", "audio", "--without", "token"],
            "physical_conflict",
            "librispeech_test_clean",
        ),
        (["--without", "trouble"], "mme", "aime_2024_agg8"),
        (["--without", "submission", "--search", "infovqa"], "infovqa_val", "infovqa_test"),
    ],
)
def test_filters(capsys: pytest.CaptureFixture[str], arguments: list[str], some: str, none: str) -> None:
    names = {task["name"] for task in asked(capsys, *arguments)["tasks"]}
    assert some in names
    assert none not in names


def test_own_tasks_alone_and_none_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, "--own")["total"] == 0


def test_without_lmms_eval_it_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_lmms.cli.catalog.load_catalogue", lambda: Catalogue(complete=False))
    assert run(["catalog"]) == 0
    assert "lmms-eval is not installed here" in capsys.readouterr().err


def test_a_long_list_is_cut_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog"]) == 0
    printed = capsys.readouterr().out
    assert "1,713 found of 1,713 tasks; 1,663 more with --limit 0" in printed
    assert run(["catalog", "--limit", "2"]) == 0
    assert "1,711 more" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "count"), [("group", 201), ("tag", 71)])
def test_groups_and_tags(capsys: pytest.CaptureFixture[str], kind: str, count: int) -> None:
    answer = asked(capsys, "--kind", kind)
    assert answer["total"] == count
    problems = [group["name"] for group in answer["groups"] if group["problem"]]
    assert len(problems) < 5


def test_a_task_is_shown_with_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "show", "refcoco+_seg_val"]) == 0
    printed = capsys.readouterr().out
    assert "doc_to_visual (refcoco_seg_doc_to_visual) reads or declares image" in printed
    assert "refcoco+_seg" in printed
    shown = asked(capsys, "show", "mmlu_abstract_algebra")
    assert shown["modality"] == {
        "value": "text",
        "evidence": "neither doc_to_visual nor doc_to_messages",
        "confidence": 0.98,
    }
    assert "mmlu_stem_tasks" in shown["member_of"] or "mmlu_stem" in shown["member_of"]


def test_a_group_is_shown_with_how_its_score_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    shown = asked(capsys, "show", "mmlu_continuation")
    assert len(shown["tasks"]) == 57
    assert [group["name"] for group in shown["groups"]][:2] == ["mmlu_continuation", "mmlu_continuation/stem"]
    assert run(["catalog", "show", "mmlu_continuation"]) == 0
    assert "acc (none), weighted by documents" in capsys.readouterr().out


def test_a_broken_group_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "show", "olympiadbench"]) == 0
    assert "olympiadbench_testmini" in capsys.readouterr().out


def test_an_unknown_name_is_answered_with_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "show", "chartq"]) == 1
    assert "did you mean chartqa" in capsys.readouterr().err


def test_an_unknown_category_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "--category", "chart"]) == 2
    assert "'charts'" in capsys.readouterr().err


def test_check_prints_file_and_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("task: a\ndataset_pat: b\n", encoding="utf-8")
    assert run(["catalog", "check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "a.yaml:2: error: expected a key that lmms-eval knows" in printed
    assert "→ did you mean dataset_path?" in printed
    assert run(["catalog", "check", str(tmp_path), "--format", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["ok"]
    assert any(problem["line"] == 2 for problem in answer["problems"])
    assert run(["catalog", "check", str(tmp_path / "nowhere")]) == 2


def test_new_without_a_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "?", "answer": "a"}\n', encoding="utf-8")
    assert run(["catalog", "new", "fresh", "--from", "rows.jsonl", "--no-try"]) == 0
    printed = capsys.readouterr().out
    assert "wrote fresh into fresh: 1 documents" in printed
    assert "not tried" in printed
    assert (tmp_path / "fresh" / "fresh.yaml").is_file()
    assert run(["catalog", "new", "mme", "--from", "rows.jsonl", "--no-try"]) == 2
    assert "already" in capsys.readouterr().err


@pytest.mark.lmms_eval
def test_new_shows_prompt_picture_and_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    image.new("RGB", (8, 8), "red").save("red.png")
    Path("rows.jsonl").write_text(
        '{"question": "Colour?", "answer": "red", "image": "red.png"}\n' * 2, encoding="utf-8"
    )
    assert run(["catalog", "new", "shown", "--from", "rows.jsonl", "--media", "."]) == 0
    printed = capsys.readouterr().out
    assert "Colour?" in printed
    assert "shown/media/red.png" in printed
    assert "exact_match:none 1" in printed
    assert "`dummy`" in printed
