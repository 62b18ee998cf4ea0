"""The runner as a process on the real lmms-eval: results, events, failures, resumption, an early end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runner_process import Outcome, Runner

pytestmark = pytest.mark.lmms_eval

PHASES = {"import", "dataset", "model_load", "generate", "score", "write"}
FIELDS = {
    "phase": {"task", "phase"},
    "task-started": {"task", "samples"},
    "progress": {"task", "phase", "done", "total", "rate", "eta_s"},
    "score": {"task", "metric", "filter", "value", "low", "high", "n", "final"},
    "log": {"level", "message", "phase", "rank", "time"},
    "task-finished": {"task", "result"},
    "task-failed": {"task", "failure", "message", "traceback"},
    "heartbeat": {"task", "phase", "done"},
}
SECRETS = {"HF_TOKEN": "hf_" + "Zq9" * 12, "OPENAI_API_KEY": "sk-" + "Wx7" * 12}
GOOD = ("probe_sum", "probe_sampled")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts runner processes that share one data cache."""
    return Runner(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def mixed(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One run of good tasks among tasks that fail, each in its own way."""
    bad = ["no_such_task", "gsm8k", "probe_no_data", "probe_builtin_choice"]
    folder = tmp_path_factory.mktemp("mixed")
    model_args = "noise=yes,api_key=" + SECRETS["OPENAI_API_KEY"]
    return runner.run(folder, environment=SECRETS, tasks=[GOOD[0], *bad, GOOD[1]], model_args=model_args)


def test_failed_tasks_leave_the_others_their_results(mixed: Outcome) -> None:
    assert mixed.status == 1
    assert [event["task"] for event in mixed.of("task-finished")] == list(GOOD)
    assert mixed.result("probe_sum")["metrics"][0]["value"] == 0.75
    assert mixed.result("probe_sampled")["metrics"][0]["value"] == 75.0


@pytest.mark.parametrize(
    ("task", "failure", "words"),
    [
        ("no_such_task", "bad_request", ["'no_such_task'", "correct the name"]),
        ("gsm8k", "dataset", ["gsm8k", "network"]),  # lmms-eval's own task, without a network
        ("probe_no_data", "dataset", ["no_such_file.jsonl", "data cache"]),
        ("probe_builtin_choice", "scoring", ["too many values to unpack", "built-in scoring", "process_results"]),
    ],
)
def test_failure_has_its_class_cause_and_remedy(mixed: Outcome, task: str, failure: str, words: list[str]) -> None:
    (event,) = mixed.of("task-failed", task)
    assert event["failure"] == failure
    assert all(word in event["message"] for word in words), event["message"]
    assert "Traceback" in event["traceback"]


def test_every_event_follows_the_protocol(mixed: Outcome) -> None:
    for event in mixed.events:
        kind = event["event"]
        assert event.keys() - {"event"} == FIELDS[kind], event
        assert event.get("phase", "import") in PHASES
        if kind == "progress":
            assert 0 <= event["done"] <= event["total"]
        if kind == "log":
            assert event["level"] in {"DEBUG", "INFO", "WARNING", "ERROR"}
            assert event["rank"] == 0


@pytest.mark.parametrize("task", GOOD)
def test_phases_come_in_order(mixed: Outcome, task: str) -> None:
    phases = [event["phase"] for event in mixed.of("phase", task)]
    work = phases[phases.index("generate") :]
    assert work == ["generate", "score", "write"]
    assert mixed.of("phase")[0] == {"event": "phase", "task": None, "phase": "import"}


@pytest.mark.parametrize("task", GOOD)
def test_generation_is_told_from_start_to_end(mixed: Outcome, task: str) -> None:
    steps = [event for event in mixed.of("progress", task) if event["phase"] == "generate"]
    counts = [event["done"] for event in steps]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == steps[-1]["total"]
    assert steps[-1]["eta_s"] == 0.0


@pytest.mark.parametrize(("task", "scale"), [("probe_sum", 1), ("probe_sampled", 100)])
def test_running_score_ends_at_the_recorded_one(mixed: Outcome, task: str, scale: int) -> None:
    scores = mixed.of("score", task)
    assert [event["final"] for event in scores] == [False] * (len(scores) - 1) + [True]
    assert len(scores) > 5
    counts = [event["n"] for event in scores]
    assert counts == sorted(counts)
    result = mixed.result(task)
    primary = result["primary"]
    recorded = [
        metric["value"]
        for metric in result["metrics"]
        if (metric["metric"], metric["filter"]) == (primary["metric"], primary["filter"])
    ]
    assert [scores[-1]["value"]] == recorded
    assert scores[-2]["value"] == pytest.approx(scores[-1]["value"])
    assert all(0 <= event["low"] <= event["value"] <= event["high"] <= scale for event in scores)


def test_task_without_a_running_score_says_why(mixed: Outcome) -> None:
    assert mixed.of("score", "probe_builtin_choice") == []
    reasons = [
        event["message"] for event in mixed.of("log") if "probe_builtin_choice: no running" in event["message"]
    ]
    assert len(reasons) == 1
    assert "too many values to unpack" in reasons[0]


def test_result_file_is_complete(mixed: Outcome) -> None:
    result = mixed.result("probe_sum")
    assert {key: result[key] for key in ("protocol", "attempt", "output_type", "samples", "documents")} == {
        "protocol": 1,
        "attempt": 1,
        "output_type": "generate_until",
        "samples": 60,
        "documents": 60,
    }
    (metric,) = result["metrics"]
    assert metric["per_sample"] and metric["binary"] and metric["higher_is_better"]
    assert metric["aggregation"] == "mean"
    assert metric["n"] == 60
    assert result["empty_responses"] == 1
    assert result["fingerprint"]["lmms_eval"] == "0.7.3"
    assert not list((mixed.folder / "output").rglob("*.tmp"))


def test_slices_are_means_of_the_samples(mixed: Outcome) -> None:
    result, rows = mixed.result("probe_sum"), mixed.samples("probe_sum")
    assert {"kind", "empty_response"} <= set(result["dimensions"])
    assert "answer" not in result["dimensions"]
    for part in (part for part in result["slices"] if part["dimension"] == "kind"):
        scores = [row["score:exact_match:none"] for row in rows if row["doc:kind"] == part["value"]]
        assert part["n"] == len(scores)
        assert part["score"] == pytest.approx(sum(scores) / len(scores))


def test_scores_file_repeats_the_samples_sorted_by_hash(mixed: Outcome) -> None:
    rows, scores = mixed.samples("probe_sum"), mixed.samples("probe_sum", "scores_file")
    assert [row["doc_id"] for row in rows] == list(range(60))
    hashes = [row["doc_hash"] for row in scores]
    assert hashes == sorted(hashes)
    columns = ("doc_hash", "row_key", "doc_id", "score:exact_match:none")
    assert sorted(tuple(row[name] for name in columns) for row in scores) == sorted(
        tuple(row[name] for name in columns) for row in rows
    )
    assert set(scores[0]) - set(columns) == {"dim:kind"}, "dimensions that hang on the answers are not kept"


def test_repeats_are_all_kept(mixed: Outcome) -> None:
    assert {len(row["responses"]) for row in mixed.samples("probe_sampled")} == {2}


def test_lines_on_stdout_that_look_like_events_change_nothing(mixed: Outcome) -> None:
    assert '{"event": "task-finished"' in mixed.console
    assert "Model Responding" not in mixed.console  # bars draw nothing


@pytest.mark.parametrize("secret", SECRETS.values())
def test_secrets_are_said_nowhere(mixed: Outcome, secret: str) -> None:
    assert secret not in json.dumps(mixed.events)
    assert secret not in mixed.console
    for file in (mixed.folder / "output").rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()


def test_model_that_cannot_be_loaded_fails_every_task(runner: Runner, tmp_path: Path) -> None:
    outcome = runner.run(tmp_path, tasks=list(GOOD), model_args="fail=load")
    assert outcome.status == 1
    assert [(event["task"], event["failure"]) for event in outcome.of("task-failed")] == [
        (task, "model_load") for task in GOOD
    ]
    assert "no weights at /nowhere" in outcome.of("task-failed")[0]["message"]
    assert not list((tmp_path / "output").rglob("*.parquet"))


def test_missing_lmms_eval_fails_every_task(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "lmms_eval.py").write_text("raise ImportError('no module named torch')")
    path = f"{tmp_path}:{runner.environment['PYTHONPATH']}"
    outcome = runner.run(tmp_path, environment={"PYTHONPATH": path}, tasks=list(GOOD))
    assert outcome.status == 1
    assert [event["task"] for event in outcome.of("task-failed")] == list(GOOD)
    message = outcome.of("task-failed")[0]["message"]
    assert "no module named torch" in message
    assert "evaluation environment" in message


def test_output_folder_that_cannot_be_made_fails_every_task(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file where the folder should be")
    outcome = runner.run(tmp_path)
    assert outcome.status == 1
    (failed,) = outcome.of("task-failed")
    assert str(tmp_path / "output") in failed["message"]


def _journal(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_killed_run_asks_only_for_what_is_missing(runner: Runner, mixed: Outcome, tmp_path: Path) -> None:
    """Killed within the second task: of the first only the empty answer is asked again, sampled answers are kept."""
    journals = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    kept_answers = 2 + 4 * 6  # a first document, then chunks of 5 % of the 120 requests
    died_at = 60 + kept_answers + 3  # all requests of the first task, and a part of a chunk of the second
    dying = {"PROBE_JOURNAL": str(journals[0]), "PROBE_KILL_AFTER": str(died_at)}
    killed = runner.run(tmp_path, environment=dying, tasks=list(GOOD))
    assert killed.status == -signal.SIGKILL
    assert [event["task"] for event in killed.of("task-finished")] == ["probe_sum"]

    resumed = runner.run(tmp_path, environment={"PROBE_JOURNAL": str(journals[1])}, tasks=list(GOOD), attempt=2)
    assert resumed.status == 0
    assert Counter(task for task, *_ in _journal(journals[1])) == {
        "probe_sum": 1,
        "probe_sampled": 120 - kept_answers,
    }
    for task in GOOD:
        assert resumed.result(task)["metrics"] == mixed.result(task)["metrics"]
        assert resumed.result(task)["attempt"] == 2

    kept = [answer for task, _, _, answer in _journal(journals[0]) if task == "probe_sampled"][:kept_answers]
    responses = [answer for row in resumed.samples("probe_sampled") for answer in row["responses"]]
    assert responses[:kept_answers] == kept
    assert resumed.samples("probe_sum")[13]["responses"] == [""]


def test_termination_leaves_nothing_half_written(runner: Runner, tmp_path: Path) -> None:
    def terminate(event: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "score":
            process.send_signal(signal.SIGTERM)

    outcome = runner.run(tmp_path, on_event=terminate, model_args="delay=0.2")
    assert outcome.status == -signal.SIGTERM  # a shell says 143
    assert outcome.of("task-finished") == []
    assert {file.name for file in (tmp_path / "output").rglob("*") if file.is_file()} == {"environment.json"}


def test_environment_is_described(mixed: Outcome) -> None:
    environment = json.loads((mixed.folder / "output" / "environment.json").read_text())
    assert environment["lmms_eval"] == "0.7.3"
    assert environment["adapter_class"] == "runner_probe.RunnerProbe"
    assert {"python", "torch", "transformers", "numpy", "platform"} <= environment.keys()


@pytest.mark.parametrize("stdin", [b"", b"not json", b"[]", b'{"protocol": 2}', b'{"protocol": 1}', b"\xff\xfe"])
def test_malformed_request_is_refused(runner: Runner, tmp_path: Path, stdin: bytes) -> None:
    outcome = runner.run_raw(tmp_path, stdin)
    assert outcome.status == 2
    assert [event["level"] for event in outcome.of("log")] == ["ERROR"]
    assert "refused" in outcome.console


def test_broken_task_file_fails_every_task(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("task: [unclosed\n")
    outcome = runner.run(tmp_path, include_paths=[str(tmp_path)], tasks=list(GOOD))
    assert outcome.status == 1
    failures = [(event["task"], event["failure"]) for event in outcome.of("task-failed")]
    assert failures == [(task, "dataset") for task in GOOD]
    assert "broken.yaml" in outcome.of("task-failed")[0]["message"]


def test_unknown_adapter_is_named(runner: Runner, tmp_path: Path) -> None:
    outcome = runner.run(tmp_path, model="no_such_adapter")
    assert outcome.status == 1
    (failed,) = outcome.of("task-failed")
    assert failed["failure"] == "model_load"
    assert "'no_such_adapter'" in failed["message"]
