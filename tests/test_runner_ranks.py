"""Several processes that evaluate together on the CPU: the bare command's scores, failures by rank, resumption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lmms_digits
import pytest
from lmms_digits.train import train
from runner_process import DEADLINE_S, Outcome, Runner

pytestmark = pytest.mark.lmms_eval

TASKS = ("digits_vqa", "digits_parity", "digits_robust")
LIMIT = 41  # odd: one rank has a document more, and the other asks one in vain


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts processes that share one data cache."""
    return Runner(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A request for the weakest digits model."""
    model = train(tmp_path_factory.mktemp("models"))["nearest-centroid"]
    folder = str(lmms_digits.tasks_folder())
    return {"model": "digits", "model_args": f"path={model}", "include_paths": [folder], "limit": LIMIT}


@pytest.fixture(scope="module")
def together(runner: Runner, digits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Two processes."""
    return runner.run(tmp_path_factory.mktemp("two"), **digits, tasks=list(TASKS), processes=2)


def test_scores_equal_those_of_torchrun_and_of_one_process(
    runner: Runner, digits: dict[str, Any], together: Outcome, tmp_path: Path
) -> None:
    alone = runner.run(tmp_path, **digits, tasks=list(TASKS))
    assert together.status == 0, together.of("task-failed") or together.console
    bare = _torchrun(runner, tmp_path, digits)
    for task in TASKS:
        theirs = {key: value for key, value in bare[task].items() if key != "alias" and value is not None}
        ours = together.result(task)
        assert {key: value for key, value in ours["raw"].items() if key != "alias"} == theirs
        assert ours["samples"] == LIMIT
        assert _without_order(together.samples(task)) == _without_order(alone.samples(task))
        assert ours["fingerprint"] == alone.result(task)["fingerprint"]
        for metric, single in zip(ours["metrics"], alone.result(task)["metrics"], strict=True):
            assert metric["value"] == pytest.approx(single["value"], rel=1e-12)


def _without_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as they are, but for pictures, whose budget goes by time."""
    return [{name: value for name, value in row.items() if name != "media"} for row in rows]


def _torchrun(runner: Runner, folder: Path, digits: dict[str, Any]) -> dict[str, Any]:
    output = folder / "bare"
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "lmms_eval", "--model", "digits", "--model_args", digits["model_args"], "--limit", str(LIMIT)]
    command += [
        "--tasks",
        ",".join(TASKS),
        "--include_path",
        digits["include_paths"][0],
        "--output_path",
        str(output),
    ]
    done = subprocess.run(
        command, env=runner.environment, cwd=folder, capture_output=True, timeout=DEADLINE_S, check=False
    )
    files = list(output.rglob("*_results.json"))
    assert len(files) == 1, done.stderr.decode()[-4000:]
    (file,) = files
    results: dict[str, Any] = json.loads(file.read_text())["results"]
    return results


def test_only_the_first_rank_reports_and_logs_carry_their_rank(together: Outcome) -> None:
    assert [event["task"] for event in together.of("task-finished")] == list(TASKS)
    assert [event["task"] for event in together.of("task-started")] == list(TASKS)
    assert {event["rank"] for event in together.of("log")} == {0, 1}
    assert not {event["event"] for event in together.events} - {
        *("phase", "task-started", "progress", "score", "log", "task-finished", "heartbeat")
    }


def test_more_gpus_than_processes_is_refused(runner: Runner, digits: dict[str, Any], tmp_path: Path) -> None:
    lease = {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2,GPU-3"}
    outcome = runner.run(tmp_path, environment=lease, **digits, tasks=list(TASKS), processes=2)
    assert outcome.status == 1
    assert {(event["task"], event["failure"]) for event in outcome.of("task-failed")} == {
        (task, "bad_request") for task in TASKS
    }
    assert "2 processes, the lease has 3 GPUs" in outcome.of("task-failed")[0]["message"]


def _journal(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_killed_rank_ends_all_and_the_rest_is_run(runner: Runner, tmp_path: Path) -> None:
    """Rank 1 dies in the first task: that one fails by name, the second is evaluated; resumed, little is repeated."""
    journals = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    dying = {"PROBE_JOURNAL": str(journals[0]), "PROBE_KILL_AFTER": "31", "PROBE_KILL_RANK": "1"}
    killed = runner.run(tmp_path, environment=dying, tasks=["probe_sampled", "probe_sum"], processes=2)
    assert killed.status == 1
    (failed,) = killed.of("task-failed")
    assert (failed["task"], failed["failure"]) == ("probe_sampled", "worker_lost")
    assert "rank 1 of 2 was killed by signal 9 (SIGKILL)" in failed["message"]
    assert "about to be killed" in failed["message"]
    assert failed.keys() == {"event", "task", "failure", "message", "traceback"}
    assert [event["task"] for event in killed.of("task-finished")] == ["probe_sum"]

    noting = {"PROBE_JOURNAL": str(journals[1])}
    again = runner.run(tmp_path, environment=noting, tasks=["probe_sampled"], processes=2, attempt=2)
    assert again.status == 0
    first = [tuple(row) for row in _journal(journals[0]) if row[0] == "probe_sampled"]
    second = [tuple(row) for row in _journal(journals[1])]
    repeated = Counter((doc, idx) for _, doc, idx, _ in second) & Counter((doc, idx) for _, doc, idx, _ in first)
    assert repeated.total() <= 2 * 3 + 2  # at most a chunk of 5 % of a rank's 60 requests, whole documents, per rank
    kept = {answer for row in again.samples("probe_sampled") for answer in row["responses"]}
    assert kept <= {answer for *_, answer in first + second}
    assert {len(row["responses"]) for row in again.samples("probe_sampled")} == {2}


def test_answers_of_two_ranks_serve_one_process(runner: Runner, tmp_path: Path) -> None:
    journals = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    dying = {"PROBE_JOURNAL": str(journals[0]), "PROBE_KILL_AFTER": "20", "PROBE_KILL_RANK": "0"}
    runner.run(tmp_path, environment=dying, tasks=["probe_sum"], processes=2)
    one = runner.run(tmp_path, environment={"PROBE_JOURNAL": str(journals[1])}, tasks=["probe_sum"])
    assert one.status == 0
    first, second = (Counter((doc, idx) for _, doc, idx, _ in _journal(path)) for path in journals)
    assert len(first) + len(second) <= 60 + 3
    assert one.result("probe_sum")["metrics"][0]["value"] == 0.75


def test_rank_that_fails_is_named_with_its_own_reason(runner: Runner, tmp_path: Path) -> None:
    broken = {"PROBE_RAISE_RANK": "1"}
    outcome = runner.run(tmp_path, environment=broken, tasks=["probe_sum", "probe_digit_wer"], processes=2)
    failures = outcome.of("task-failed")
    assert [event["task"] for event in failures] == ["probe_sum", "probe_digit_wer"]
    assert {event["failure"] for event in failures} == {"out_of_memory"}
    assert all(event["message"].startswith("rank 1 of 2: OutOfMemoryError") for event in failures), failures
    assert "CUDA out of memory" in failures[0]["message"]


def test_end_of_the_runner_leaves_no_rank(runner: Runner, tmp_path: Path) -> None:
    def kill(event: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        if event["event"] == "task-started":
            process.send_signal(signal.SIGKILL)

    outcome = runner.run(tmp_path, on_event=kill, tasks=["probe_sum"], processes=2, model_args="delay=5")
    assert outcome.status == -signal.SIGKILL  # and the runner's pipes were closed, so that no rank was left
