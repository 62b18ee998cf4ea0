"""Other people's lmms-eval results, imported: their numbers come out, and what docs/reproduced.md says is so."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from core_services import core_on, look_models_up_at
from mlflow import MlflowClient

from mlflow_lmms.board_query import BoardQuery
from mlflow_lmms.cli.main import run
from mlflow_lmms.comparison import compare_with_baseline
from mlflow_lmms.gate_rules import GateRequest
from mlflow_lmms.gate_service import GateService
from mlflow_lmms.names import MetricName, Tag
from mlflow_lmms.registry import ModelDescription, register_model
from mlflow_lmms.report.comparison_sheet import verdict_words
from mlflow_lmms.score import Score
from mlflow_lmms.services import Services
from mlflow_lmms.settings import Settings

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared" / "real_outputs"
NOTE = (ROOT / "docs" / "reproduced.md").read_text(encoding="utf-8")
OMNI, MOVED, BOOKS = "Qwen/Qwen3-Omni-30B-A3B-Instruct", "polymath_en_low", "voicebench_openbookqa"


@contextmanager
def core_of(database: Path, valkey: str) -> Iterator[Services]:
    """The server's core on an MLflow database, with all its runs in the index."""
    client, own = MlflowClient(f"sqlite:///{database}"), f"sqlite:///{database.with_name('lmms.db')}"
    with core_on(client, Settings(data_folder=database.parent, redis_url=valkey, database_url=own)) as core:
        experiments = [one.experiment_id for one in client.search_experiments()]
        core.scores.refresh_runs([one.info.run_id for one in client.search_runs(experiments)])
        yield core


@pytest.fixture(scope="module")
def imported(
    mlflow_template: Path, other_valkey: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """The real outputs, and the published scores that the note names, by `mlflow-lmms import`."""
    if not REAL.is_dir():
        pytest.skip(f"needs {REAL}: output folders that are not ours to pass on")
    folder = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where artifacts are stored
        database = Path(shutil.copy(mlflow_template, folder / "mlflow.db"))
        look_models_up_at(f"sqlite:///{database}", patch)
        (published,) = re.findall(r"```csv\n(.*?)```", NOTE, re.DOTALL)
        (folder / "published.csv").write_text(published, encoding="utf-8")
        assert run(["import", str(REAL), "--reported", "published.csv"]) == 0
        with core_of(database, other_valkey) as core:
            yield core


def board(services: Services, **asked: Any) -> dict[str, Any]:
    return services.boards.ranked(BoardQuery.of(asked), experiment_ids=None).as_json()


def cells(services: Services, **asked: Any) -> dict[str, dict[str, Any]]:  # no task has two
    return {task: cell for row in board(services, **asked)["rows"] for task, cell in row["cells"].items()}


def moved(services: Services) -> list[Score]:  # oldest first
    return sorted(services.scores.primary_scores(tasks=[MOVED]), key=lambda score: score.recorded_at)


def shown(told: dict[str, Any], name: str = "value", form: str = ".4g") -> str:
    interval = "" if told["low"] is None else f" [{told['low']:{form}}, {told['high']:{form}}]"
    return f"{told[name]:{form}}{interval}"


def where(published: dict[str, Any], cell: dict[str, Any]) -> str:
    if cell["low"] is None:
        return "no interval"
    return "inside" if cell["low"] <= published["value"] <= cell["high"] else "outside"


def place(cell: dict[str, Any]) -> str:
    if cell["rank"] is not None:
        return "#" + "–".join(map(str, sorted(set(cell["rank_interval"]))))
    if cell["flagged"]:
        return "flagged: " + ", ".join(cell["flagged"]).replace("_", " ")
    return "documents unknown" if "which documents" in cell["note"] else str(cell["note"])


def rows(heading: str) -> list[str]:  # of the note's table
    (section,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", NOTE, re.MULTILINE | re.DOTALL)
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def says(*words: str) -> None:
    told = " ".join(NOTE.split())
    assert [one for one in words if one not in told] == []


def test_every_recorded_number_is_a_metric_of_its_run(imported: Services) -> None:
    by_key = {one.data.tags[Tag.IMPORT_KEY]: one.data.metrics for one in imported.scores.recorded_runs()}
    numbers = 0
    for file in REAL.rglob("*_results.json"):
        metrics = by_key[hashlib.sha256(file.read_bytes()).hexdigest()]
        for task, told in json.loads(file.read_text(encoding="utf-8"))["results"].items():
            for key, value in told.items():
                metric, _, filter_name = key.partition(",")
                if isinstance(value, float) and not metric.endswith("_stderr"):
                    assert metrics[str(MetricName(task, metric, filter_name))] == value, key
                    numbers += 1
    says(f"All {numbers} numbers")


def test_scores_of_single_documents_give_the_recorded_numbers(imported: Services) -> None:
    found = [score for score in imported.scores.primary_scores() if score.source == "import"]
    vectors = [(score, vector.values) for score in found if (vector := imported.reader.vector(score)) is not None]
    for score, values in vectors:
        assert float(values.mean()) * (score.factor or 0) == pytest.approx(score.value, rel=1e-12, abs=1e-12)
        assert (len(values), score.low is None) == (score.n, False)
    says(f"{len(vectors)} of the {len(found)} results")


def test_the_note_tells_what_the_board_shows(imported: Services) -> None:
    found = cells(imported)
    tasks = re.findall(r"^\| `(\w+)`", "\n".join(rows("Recorded and imported")), re.MULTILINE)
    assert rows("Recorded and imported") == [
        f"| `{task}` | {cell['metric']} | {cell['value']!r} | {shown(cell)} | {cell['n']:,} | {place(cell)} |"
        for task, cell in ((task, found[task]) for task in tasks)
    ]
    counts = Counter("ranked" if cell["rank"] else place(cell).partition(":")[0] for cell in found.values())
    says(f"Of its {len(found)} results, {counts['ranked']} are ranked, {counts['flagged']} are flagged")
    says(f"and {counts['documents unknown']} do not tell which documents they are over")
    assert board(imported)["verdicts"] == [], "no two models have a task in common"


def test_published_scores_are_ranked_with_nobody(imported: Services, capsys: pytest.CaptureFixture[str]) -> None:
    found, ours = {row["model"]: row for row in board(imported)["rows"]}, cells(imported)
    assert rows("Beside published scores") == [
        f"| `{task}` | {score['value']} | {shown(ours[task])} | {where(score, ours[task])} |"
        for task, (score,) in found[OMNI]["reported"].items()
    ]
    others = {name: row["reported"][BOOKS][0] for name, row in found.items() if not row["cells"]}
    inside = {name for name, score in others.items() if where(score, ours[BOOKS]) == "inside"}
    assert (len(others), inside) == (4, {"GPT-4o-Audio", "Gemini-2.5-Pro"})
    assert {row["rank"] for row in found.values()} == {None}
    capsys.readouterr()
    assert run(["power", "--documents", "455", "--difference", "0.005", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    says(f"{100 * told['smallest_difference']:.1f} points", f"{told['documents_needed']:,} documents")


def test_three_evaluations_of_one_model(imported: Services) -> None:
    runs = [score.run_id for score in moved(imported)]
    found = compare_with_baseline(runs, moved(imported), imported.reader.vector).as_json()
    told = [found["tasks"][0]["candidates"][run_id] for run_id in runs[1:]]
    assert [verdict_words(one) for one in told] == ["no difference shown", "better; flagged: score moved"]
    for one in told:
        says(shown(one, "difference", "+.3f"), f"{one['wins']} : {one['losses']}")
    says(f"p = {told[1]['adjusted']:.1e}", f"a difference of {told[1]['detectable']:.3f}")
    says(f"*{verdict_words(told[1])}*")
    says(cells(imported)[MOVED]["warnings"][0]["message"].partition("but ")[2])
    gates = GateService(imported.client, imported.scores, imported.reader, imported.suites, imported.catalogue)
    judged = gates.judge(GateRequest(candidate=runs[2], baseline=runs[1], margin=0.01), experiment_ids=None)
    says(f"*{judged['outcome']}*: {judged['tasks'][0]['reason']}")
    assert cells(imported, result="best")[MOVED]["rank"] is None, "0.0 is not the best of 0.0 and a flagged 0.984"


def test_the_three_as_versions_of_a_model(
    imported: Services, other_valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copy("mlflow.db", tmp_path))
    look_models_up_at(f"sqlite:///{copy}", monkeypatch)
    for score in moved(imported):
        made = register_model(MlflowClient(f"sqlite:///{copy}"), "qwen3-omni", ModelDescription(adapter="vllm"))
        assert run(["link", score.run_id, f"models:/qwen3-omni/{made.version}"]) == 0
    with core_of(copy, other_valkey) as core:
        plain, flagged = (board(core, tasks=[MOVED], flagged=asked)["rows"] for asked in (False, True))
    places = [{row["model"]: row["cells"][MOVED] for row in own} for own in (plain, flagged)]
    assert rows("A board of three evaluations") == [
        f"| {model} | {shown(cell)} | {place(cell)} | {place(places[1][model])} |"
        for model, cell in sorted(places[0].items())
    ]
    assert all(cell["paired"] for cell in places[1].values())


def test_what_is_flagged_says_why(imported: Services) -> None:
    found = cells(imported)
    says(*(warning["message"] for warning in found["arc_challenge"]["warnings"]))
    judged = [cell["value"] for cell in found.values() if cell["flagged"] == ("judge_failed",)]
    assert not any(judged)
    says(f"{len(judged)} results of VoiceBench", "below chance even among ten options")
    assert "among 10 options" in found["hellaswag"]["warnings"][0]["message"]
    assert ("mmau_test" in found, board(imported)["left_out"]) == (False, [])
