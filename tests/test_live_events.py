"""Live events on a real queue server: what is written is read, in order, from any point on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from mlflow_lmms.errors import UnavailableError
from mlflow_lmms.live_events import FEED_KEY, EventLog, TokenFilter, stream_key


@pytest.fixture
def events(empty_valkey: str) -> EventLog:
    return EventLog(empty_valkey)


@pytest.fixture
def connection(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey, decode_responses=True) as connection:
        yield connection


def test_an_event_comes_back_as_it_was_written(events: EventLog) -> None:
    before = time.time()
    events.append("run", "score", {"task": "数字", "value": 0.5, "low": None}, part="0", token=7)
    (event,) = events.read("run")
    assert (event.kind, event.data) == ("score", {"task": "数字", "value": 0.5, "low": None})
    assert (event.part, event.token) == ("0", 7)
    assert before <= event.time <= time.time()


def test_an_event_of_the_server_has_no_part(events: EventLog) -> None:
    events.append("run", "state", {})
    (event,) = events.read("run")
    assert (event.part, event.token) == (None, None)


def test_reading_goes_on_after_the_last_event_seen(events: EventLog) -> None:
    for number in range(5):
        events.append("run", "progress", {"done": number})
    first = events.read("run", count=2)
    assert [event.data["done"] for event in first] == [0, 1]
    assert [event.data["done"] for event in events.read("run", after=first[-1].id)] == [2, 3, 4]
    assert events.read("run", after=events.read("run")[-1].id) == []


def test_runs_have_streams_of_their_own(events: EventLog) -> None:
    events.append("one", "state", {})
    assert events.exists("one")
    assert not events.exists("two")
    assert events.read("two") == []


def test_a_stream_goes_a_day_after_its_last_event(events: EventLog, connection: redis.Redis) -> None:
    events.append("run", "state", {})
    assert 23 * 3600 < int(str(connection.ttl(stream_key("run")))) <= 24 * 3600


def test_the_feed_holds_what_concerns_all(events: EventLog, connection: redis.Redis) -> None:
    events.append("run", "log", {"lines": []})
    events.append("run", "state", {"state": "running"}, part="0", token=1, feed={"experiment_id": "3", "model": "m"})
    assert connection.xlen(FEED_KEY) == 1
    entries: Any = connection.xrange(FEED_KEY)
    ((_, fields),) = entries
    assert fields["kind"] == "state"
    assert fields["data"] == '{"state": "running", "experiment_id": "3", "model": "m", "run_id": "run"}'
    assert "experiment_id" not in events.read("run")[-1].data


def test_streams_do_not_grow_without_bound(
    events: EventLog, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_lmms.live_events._RUN_LENGTH", 100)
    monkeypatch.setattr("mlflow_lmms.live_events._FEED_LENGTH", 100)
    for number in range(500):
        events.append("run", "progress", {"done": number}, feed={"experiment_id": "1"})
    assert 100 <= connection.xlen(stream_key("run")) <= 250
    assert 100 <= connection.xlen(FEED_KEY) <= 250
    assert events.read("run")[-1].data == {"done": 499}


def test_an_absent_queue_server_is_told(tmp_path: Path) -> None:
    events = EventLog(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(UnavailableError):
        events.append("run", "state", {})
    with pytest.raises(UnavailableError):
        events.read("run")
    with pytest.raises(UnavailableError):
        events.exists("run")


def test_events_of_a_former_owner_are_dropped() -> None:
    accepts = TokenFilter().accepts
    assert [accepts("0", 3), accepts("0", 5), accepts("0", 3), accepts("0", 5), accepts("1", 2)] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert accepts(None, None)
    assert accepts("0", None)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6))))
def test_what_passes_never_goes_back_to_an_older_token(entries: list[tuple[str, int]]) -> None:
    tokens = TokenFilter()
    passed = [(part, token) for part, token in entries if tokens.accepts(part, token)]
    for part in "ab":
        seen = [token for its, token in passed if its == part]
        assert seen == sorted(seen)
        assert max(seen, default=0) == max((token for its, token in entries if its == part), default=0)
