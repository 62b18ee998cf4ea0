"""The runner's events and progress: whole lines, honest counts, a readable pace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from runner_process import REPOSITORY

from worker.runner.events import EventChannelError, EventWriter
from worker.runner.heartbeat import Heartbeat
from worker.runner.progress import Progress


class Channel:
    """A pipe with an event writer on one end and a thread that reads on the other."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self.events = EventWriter(self._writing)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(reading,))
        self._reader.start()

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, encoding="utf-8") as lines:
            self._lines.extend(lines)

    def close(self) -> list[dict[str, Any]]:
        """End the stream and return all events."""
        os.close(self._writing)
        self._reader.join()
        return [json.loads(line) for line in self._lines]


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeBar:
    """What progress reads of a bar."""

    total: float | None
    desc: str = ""
    n: float = 0


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(channel: Channel, clock: Clock) -> Progress:
    return Progress(channel.events, clock)


def test_numbers_that_json_lacks_become_null(channel: Channel) -> None:
    score = {"metric": "m", "filter": "none", "value": float("nan"), "low": float("-inf"), "high": None, "n": 1}
    channel.events.score("t", score, final=True)
    (event,) = channel.close()
    assert (event["value"], event["low"], event["high"]) == (None, None, None)


def test_half_a_surrogate_pair_does_not_break_the_line(channel: Channel) -> None:
    channel.events.log("INFO", "answer: \ud83d\nsecond line")
    (event,) = channel.close()
    assert event["message"].startswith("answer: ")


def test_lines_of_many_threads_stay_whole(channel: Channel) -> None:
    def write(letter: str) -> None:
        for _ in range(50):
            channel.events.log("INFO", letter * 5000)  # longer than a pipe takes in one piece

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = [event["message"] for event in channel.close()]
    assert len(messages) == 200
    assert {(len(message), len(set(message))) for message in messages} == {(5000, 1)}


@pytest.mark.parametrize("value", ["", "x", "-1", "99999", "9" * 30])
def test_missing_channel_is_refused(value: str) -> None:
    with pytest.raises(EventChannelError, match="LMMS_EVENT_FD"):
        EventWriter.from_environment({"LMMS_EVENT_FD": value})


def _start(**environment: str) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if name != "LMMS_EVENT_FD"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "worker.runner"],
        env={**inherited, "PYTHONPATH": str(REPOSITORY), **environment},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        close_fds=False,
    )


def test_runner_without_channel_ends_with_status_2() -> None:
    process = _start()
    _, errors = process.communicate(b"", timeout=60)
    assert process.returncode == 2
    assert b"LMMS_EVENT_FD" in errors


def test_runner_ends_itself_when_nobody_listens() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    os.close(reading)
    process = _start(LMMS_EVENT_FD=str(writing))
    os.close(writing)
    process.communicate(b"not a request", timeout=60)
    assert process.returncode == 1


def _steps(channel: Channel) -> list[tuple[int, int]]:
    return [(event["done"], event["total"]) for event in channel.close() if event["event"] == "progress"]


def test_bar_of_a_chunk_counts_inside_its_window(channel: Channel, progress: Progress, clock: Clock) -> None:
    progress.enter("generate", "t")
    progress.expect(100)
    for start in (0, 50):
        progress.window(start, 50)
        bar = FakeBar(total=5)  # an adapter that counts batches of ten
        progress.bar_opened(bar)
        for bar.n in (1, 2, 3, 4, 5):
            clock.now += 1
            progress.bar_moved(bar)
        progress.bar_closed(bar)
    assert _steps(channel) == [(done, 100) for done in range(0, 101, 10)]


def test_pace_is_held_and_the_last_step_told(channel: Channel, progress: Progress, clock: Clock) -> None:
    progress.enter("score", "t")
    bar = FakeBar(total=1000)
    progress.bar_opened(bar)
    for done in range(1, 1001):
        clock.now += 0.01
        bar.n = done
        progress.bar_moved(bar)
    progress.bar_closed(bar)
    steps = _steps(channel)
    assert steps[0] == (0, 1000)
    assert steps[-1] == (1000, 1000)
    assert 30 <= len(steps) <= 45  # ten seconds, four a second


def test_rate_and_remaining_time(channel: Channel, progress: Progress, clock: Clock) -> None:
    progress.enter("generate", "t")
    progress.expect(100)
    clock.now += 10
    progress.advance(20)
    last = [event for event in channel.close() if event["event"] == "progress"][-1]
    assert (last["rate"], last["eta_s"]) == (2.0, 40.0)


def test_bar_inside_a_bar_is_ignored(channel: Channel, progress: Progress, clock: Clock) -> None:
    progress.enter("score", "t")
    outer, inner = FakeBar(total=10), FakeBar(total=1000)
    progress.bar_opened(outer)
    progress.bar_opened(inner)
    clock.now += 1
    inner.n = 500
    progress.bar_moved(inner)
    progress.bar_closed(inner)
    outer.n = 10
    progress.bar_moved(outer)
    assert _steps(channel) == [(0, 10), (10, 10)]


def test_bar_of_unknown_length_tells_nothing(channel: Channel, progress: Progress) -> None:
    progress.enter("dataset", "t")
    bar = FakeBar(total=None)
    progress.bar_opened(bar)
    progress.bar_moved(bar)
    assert _steps(channel) == []


def test_scoring_bar_begins_the_scoring_phase(channel: Channel, progress: Progress) -> None:
    progress.enter("generate", "t")
    progress.expect(5)
    progress.bar_opened(FakeBar(total=5, desc="Postprocessing"))
    phases = [(event["task"], event["phase"]) for event in channel.close() if event["event"] == "phase"]
    assert phases == [("t", "generate"), ("t", "score")]


def test_heartbeat_counts_what_gets_done_and_not_a_hanging_model(
    channel: Channel, progress: Progress, clock: Clock
) -> None:
    heart = Heartbeat(channel.events, progress, clock)
    progress.enter("model_load", "t")
    heart.beat()
    clock.now += 7  # seconds of work
    heart.beat()
    progress.enter("generate", "t")
    progress.expect(10)
    heart.beat()
    clock.now += 100  # it hangs, busily
    heart.beat()
    progress.advance(1)
    heart.beat()
    bar = FakeBar(total=None)  # a bar that is not followed
    progress.bar_moved(bar)
    heart.beat()
    beats = [event for event in channel.close() if event["event"] == "heartbeat"]
    assert [event["phase"] for event in beats] == ["model_load"] * 2 + ["generate"] * 4
    loading, loaded, asked, hanging, answered, moved = (event["done"] for event in beats)
    assert loaded == loading + 7
    assert asked > loaded
    assert hanging == asked
    assert asked < answered < moved


def test_heart_beats_by_itself(channel: Channel, progress: Progress) -> None:
    came = threading.Event()
    heart = Heartbeat(channel.events, progress)
    heart.beat = came.set  # type: ignore[method-assign]
    end = heart.start(0.01)
    try:
        assert came.wait(10)
    finally:
        end.set()
        channel.close()


def test_later_ranks_say_little(channel: Channel) -> None:
    events = EventWriter(channel.events._descriptor, rank=1)
    events.task_started("t", 3)
    events.tasks(["t"])
    events.score("t", {"value": 1.0}, final=True)
    events.task_finished("t", "t.json")
    events.log("INFO", "hello")
    events.task_failed("t", "unknown", "why", "trace")
    events.heartbeat("t", "generate", 3)
    said = channel.close()
    assert [event["event"] for event in said] == ["log", "task-failed", "heartbeat"]
    assert said[0]["rank"] == 1
    assert said[1]["at"] > 0
