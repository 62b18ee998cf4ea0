"""The runner's process and log: events and lines read as they come, everything ended, every secret scrubbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_lmms.errors import InvalidRequestError, StorageFullError
from mlflow_lmms.scrubbing import Scrubber
from mlflow_lmms.settings import Settings
from worker.evaluation_environment import python_of, resolve_secrets, runner_environ, runner_path
from worker.log_lines import LineCutter, is_progress_bar, level_of
from worker.process_tree import processes_of
from worker.run_log import RunLog
from worker.runner_process import RunnerEvent, RunnerProcess

HEAD = "import json, os, subprocess, sys, time\nout = os.fdopen(int(os.environ['LMMS_EVENT_FD']), 'w', buffering=1)\n"


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"test{uuid.uuid4().hex}-p0#1"
    yield mark
    assert processes_of(mark) == [], "a process was left over"


def runner(code: str, mark: str, folder: Path, grace_s: float = 1.0) -> RunnerProcess:
    environ = runner_environ(os.environ, mark=mark, gpus=(), secrets={})
    return RunnerProcess([sys.executable, "-P", "-c", HEAD + code], environ, folder, mark, grace_s)


def run(process: RunnerProcess, seconds: float = 20) -> tuple[list[dict[str, object]], list[str]]:
    events, lines = [], []
    deadline = time.monotonic() + seconds
    while not process.ended:
        assert time.monotonic() < deadline, "the runner did not end in time"
        for item in process.read(0.1):
            if isinstance(item, RunnerEvent):
                events.append(item.data)
            else:
                lines.append(item.text)
    process.close()
    return events, lines


def test_events_and_lines_arrive_and_the_request_is_read(mark: str, tmp_path: Path) -> None:
    process = runner(
        "asked = json.load(sys.stdin)\n"
        "print(json.dumps({'event': 'log', 'message': asked['model'] + 'x' * 100_000}), file=out)\n"
        "print('plain')\nprint('a\\rb\\x1b[31mred\\x1b[0m', file=sys.stderr)\n"
        "print('no json', file=out)\nsys.exit(3)",
        mark,
        tmp_path,
    )
    process.start({"model": "m"})
    events, lines = run(process)
    assert events == [{"event": "log", "message": "m" + "x" * 100_000}]
    assert sorted(lines) == ["a", "an event that is no JSON: no json", "bred", "plain"]
    assert process.code == 3


def test_a_killed_runner_is_told_from_one_that_ended(mark: str, tmp_path: Path) -> None:
    process = runner("os.kill(os.getpid(), 9)", mark, tmp_path)
    process.start({})
    run(process)
    assert process.code == 128 + signal.SIGKILL


def test_stop_ends_a_stubborn_tree_with_a_grandchild_in_its_own_session(mark: str, tmp_path: Path) -> None:
    process = runner(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen(['setsid', 'sh', '-c', 'trap \"\" TERM; sleep 300 & wait'])\n"
        "print('up', file=out)\ntime.sleep(300)",
        mark,
        tmp_path,
        grace_s=0.2,
    )
    process.start({})
    deadline = time.monotonic() + 20
    while not process.read(0.1):
        assert time.monotonic() < deadline
    assert len(processes_of(mark)) >= 3
    process.stop()
    run(process, seconds=8)


def test_stop_gives_the_runner_time_to_end_by_itself(mark: str, tmp_path: Path) -> None:
    process = runner(
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)))\n"
        "print('up', file=out)\ntime.sleep(300)",
        mark,
        tmp_path,
        grace_s=5,
    )
    process.start({})
    deadline = time.monotonic() + 20
    while not process.read(0.1):
        assert time.monotonic() < deadline
    process.stop()
    assert run(process)[1] == ["bye"]
    assert process.code == 0


def test_close_kills_what_still_runs(mark: str, tmp_path: Path) -> None:
    process = runner("time.sleep(300)", mark, tmp_path)
    process.start({})
    process.close()
    assert processes_of(mark) == []


def test_lines_are_cut_at_both_ends_and_half_characters_wait() -> None:
    cutter = LineCutter()
    euro = "€".encode()
    assert cutter.feed(b"one\rtw" + euro[:1]) == ["one"]
    assert cutter.feed(euro[1:] + b"o\n\nrest") == ["tw€o"]
    assert cutter.feed(b"", last=True) == ["rest"]


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    cutter = LineCutter()
    lines = cutter.feed(b"x" * 100_000)
    assert sum(map(len, lines)) > 80_000
    assert max(map(len, lines)) <= 16_384


@pytest.mark.parametrize(
    "line",
    [
        "Model Responding:  12%|█▏        | 3/26 [00:01<00:09,  2.41it/s]",
        "Resolving data files: 100%|██████████| 20/20 [00:00<00:00, 98.11it/s]",
        "0it [00:00, ?it/s]",
        "Generating train split: 51 examples [00:00, 2412.11 examples/s] 3/51 [00:00",
    ],
)
def test_progress_bars_are_known(line: str) -> None:
    assert is_progress_bar(line)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("2025-01-01 | ERROR | judge failed", "ERROR"),
        ("ValueError: no such task", "ERROR"),
        ("Traceback (most recent call last):", "ERROR"),
        ("x.py:3: FutureWarning: soon gone", "WARNING"),
        ("score 3/4 is 75% | fine", "INFO"),
        ("the error rate is 3", "INFO"),
    ],
)
def test_levels_are_guessed_and_ordinary_lines_are_no_bars(line: str, level: str) -> None:
    assert level_of(line) == level
    assert not is_progress_bar(line)


def test_the_log_is_scrubbed_kept_and_passed_on_in_batches(tmp_path: Path) -> None:
    batches: list[list[dict[str, object]]] = []
    log = RunLog(tmp_path / "spool" / "log.jsonl", Scrubber(["topsecret"]), batches.append)
    for number in range(150):
        log.add("INFO", f"{number} topsecret", phase="generate", rank=1, at=5.0)
    log.flush(due_only=True)
    assert batches == []
    log.close()
    (batch,) = batches
    written = [json.loads(line) for line in (tmp_path / "spool" / "log.jsonl").read_text().splitlines()]
    assert batch == written
    assert written[3] == {"time": 5.0, "level": "INFO", "phase": "generate", "rank": 1, "message": "3 ***"}
    assert log.tail().splitlines() == [f"INFO {number} ***" for number in range(50, 150)]


def test_a_long_log_does_not_wait_for_the_clock(tmp_path: Path) -> None:
    batches: list[list[dict[str, object]]] = []
    log = RunLog(tmp_path / "log.jsonl", Scrubber(), batches.append)
    for _ in range(30):
        log.add("INFO", "word " * 1000)
    assert len(batches) == 2
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_its_remedy() -> None:
    log = RunLog(Path("/dev/full"), Scrubber(), lambda lines: None)
    with pytest.raises(StorageFullError, match=r"No space left.*MLFLOW_LMMS_DATA_FOLDER"):
        log.add("INFO", "x")
    log.close()


def test_the_runner_gets_what_it_needs_and_no_credentials() -> None:
    outside = {
        "PATH": "/bin",
        "HF_HOME": "/cache",
        "HF_TOKEN": "hf_x",
        "OMP_NUM_THREADS": "2",
        "https_proxy": "p",
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_TRACKING_PASSWORD": "x",
        "MLFLOW_LMMS_REDIS_URL": "x",
        "RQ_REDIS_URL": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "OPENAI_API_KEY": "x",
        "CUDA_VISIBLE_DEVICES": "0,1,2",
        "PYTHONPATH": "/elsewhere",
        "LMMS_EVAL_USE_CACHE": "1",
    }
    inside = runner_environ(outside, mark="a#1", gpus=["GPU-a", "GPU-b"], secrets={"OPENAI_API_KEY": "asked"})
    assert inside == {
        "PATH": "/bin",
        "HF_HOME": "/cache",
        "OMP_NUM_THREADS": "2",
        "https_proxy": "p",
        "TOKENIZERS_PARALLELISM": "false",
        "OPENAI_API_KEY": "asked",
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "LMMS_LEASE": "a#1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    assert runner_environ({}, mark="a#1", gpus=[], secrets={})["CUDA_VISIBLE_DEVICES"] == ""


def test_secrets_come_from_the_folder_or_from_the_variables_offered(tmp_path: Path) -> None:
    (tmp_path / "JUDGE_KEY").write_text("from file\n")
    settings = Settings(secrets_folder=tmp_path, secrets_offered=("OPENAI_API_KEY", "EMPTY"), box="b")
    environ = {"OPENAI_API_KEY": "from env", "HOME": "/", "EMPTY": ""}
    assert resolve_secrets(["JUDGE_KEY", "OPENAI_API_KEY"], settings, environ) == {
        "JUDGE_KEY": "from file",
        "OPENAI_API_KEY": "from env",
    }
    for name in ("HOME", "EMPTY", "OTHER"):
        with pytest.raises(InvalidRequestError, match=rf"box b has no secret {name}: put it into a file"):
            resolve_secrets([name], settings, environ)
    with pytest.raises(InvalidRequestError, match="letters"):
        resolve_secrets(["../JUDGE_KEY"], settings, environ)


def test_an_environment_that_the_box_does_not_offer_is_named_with_the_remedy(tmp_path: Path) -> None:
    settings = Settings(environments={"vllm": sys.executable, "broken": str(tmp_path)}, box="b")
    assert python_of(None, settings) == python_of("vllm", settings) == sys.executable
    with pytest.raises(InvalidRequestError, match=r"offers broken, vllm\).*--environment other="):
        python_of("other", settings)
    settings = Settings(environments={"gone": str(tmp_path / "python")})
    with pytest.raises(InvalidRequestError, match="cannot run"):
        python_of("gone", settings)


def test_another_python_sees_the_runner_and_its_rules_and_nothing_else_of_ours(tmp_path: Path) -> None:
    folder = runner_path(tmp_path / "path")
    assert runner_path(folder) == folder
    seen = sorted(str(item.relative_to(folder)) for item in folder.rglob("*") if item.name != "__init__.py")
    assert seen == ["mlflow_lmms", "mlflow_lmms/reading", "worker", "worker/runner"]
    assert (folder / "worker" / "runner" / "__main__.py").is_file()
    program = "import sys, worker.runner.task_result as found; print(found.__file__); print(*sys.modules)"
    environ = {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    told = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    file, modules = told.stdout.splitlines()
    assert file.startswith(str(folder))
    assert not {"pydantic", "mlflow", "mlflow_lmms.client"} & set(modules.split())
