"""The event hub on a real queue server: nothing lost, nothing twice, slow readers and outages told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis

from mlflow_lmms.live_events import EventLog, stream_key
from mlflow_lmms.redis_server import EmbeddedRedis
from plugin_ui.event_frames import AVAILABLE, EXPIRED, RECONNECT, TRIMMED, UNAVAILABLE, Frame
from plugin_ui.event_hub import START, EventHub

Scenario = Callable[[EventHub], Awaitable[None]]


@pytest.fixture
def run_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A queue server that the test may mistreat."""
    server = EmbeddedRedis(tmp_path)
    server.start()
    yield server
    server.stop()


def play(url: str, scenario: Scenario, *, queue_size: int = 512) -> None:
    """Run a scenario on a hub of its own, 60 seconds at most."""

    async def main() -> None:
        hub = EventHub(url, queue_size=queue_size)
        hub.start()
        try:
            async with asyncio.timeout(60):
                await scenario(hub)
        finally:
            await hub.close()

    asyncio.run(main())


async def collect(batches: AsyncGenerator[list[Frame]], count: int) -> list[Frame]:
    """The first `count` frames."""
    frames: list[Frame] = []
    async for batch in batches:
        frames += batch
        if len(frames) >= count:
            return frames
    return frames


def numbers(frames: list[Frame]) -> list[int]:
    return [json.loads(frame.text)["n"] for frame in frames]


def write(log: EventLog, run_id: str, *values: int, part: str = "0", token: int = 1) -> None:
    for value in values:
        log.append(run_id, "progress", {"n": value}, part=part, token=token)


def test_a_reader_gets_history_and_news_once_and_in_order(valkey: str, run_id: str) -> None:
    log = EventLog(valkey)
    write(log, run_id, *range(1200))  # more than two pages

    async def scenario(hub: EventHub) -> None:
        first = hub.follow(stream_key(run_id), START)
        write_more = asyncio.to_thread(write, log, run_id, *range(1200, 1500))
        frames, _ = await asyncio.gather(collect(first, 1500), write_more)
        assert numbers(frames) == list(range(1500))

        write(log, run_id, 1500)
        resumed = await collect(hub.follow(stream_key(run_id), frames[700].id), 800)
        assert numbers(resumed) == list(range(701, 1501))

    play(valkey, scenario)


def test_many_readers_share_one_connection_and_each_line_is_encoded_once(
    own_valkey: EmbeddedRedis, run_id: str
) -> None:
    log = EventLog(own_valkey.url)

    async def scenario(hub: EventHub) -> None:
        readers = [asyncio.ensure_future(collect(hub.follow(stream_key(run_id), START), 50)) for _ in range(40)]
        await joined(hub, run_id, 40)
        await asyncio.to_thread(write, log, run_id, *range(50))
        got = await asyncio.gather(*readers)
        assert all(numbers(frames) == list(range(50)) for frames in got)
        assert len({id(frame) for frames in got for frame in frames}) == 50
        with redis.Redis.from_url(own_valkey.url) as connection:
            blocked = [client for client in connection.client_list() if client["cmd"] == "xread"]
        assert len(blocked) == 1

    play(own_valkey.url, scenario)


async def joined(hub: EventHub, run_id: str, count: int) -> None:
    """Wait until so many readers follow the run live."""
    while hub.readers(stream_key(run_id)) < count:
        await asyncio.sleep(0.01)


def test_readers_may_join_while_the_stream_flows(valkey: str, run_id: str) -> None:
    log = EventLog(valkey)

    async def join(hub: EventHub, after: float) -> list[int]:
        await asyncio.sleep(after)
        return numbers(await collect(hub.follow(stream_key(run_id), START), 400))

    async def scenario(hub: EventHub) -> None:
        writing = asyncio.to_thread(write, log, run_id, *range(400))
        got = await asyncio.gather(*(join(hub, turn * 0.004) for turn in range(20)), writing)
        assert all(values == list(range(400)) for values in got[:-1])

    play(valkey, scenario)


def test_a_former_owner_of_a_part_is_not_heard(valkey: str, run_id: str) -> None:
    log = EventLog(valkey)
    write(log, run_id, 1, token=1)
    write(log, run_id, 2, token=2)
    write(log, run_id, 3, token=1)  # the one that lost the part
    write(log, run_id, 4, part="1", token=1)  # another part

    async def scenario(hub: EventHub) -> None:
        frames = await collect(hub.follow(stream_key(run_id), START), 3)
        assert numbers(frames) == [1, 2, 4]
        resumed = await collect(hub.follow(stream_key(run_id), frames[1].id), 1)
        assert numbers(resumed) == [4], "resuming after 2 knows that token 1 is old"
        live = asyncio.ensure_future(collect(hub.follow(stream_key(run_id), frames[-1].id), 1))
        await joined(hub, run_id, 1)
        write(log, run_id, 5, token=1)
        write(log, run_id, 6, token=2)
        assert numbers(await live) == [6]

    play(valkey, scenario)


def test_a_slow_reader_is_told_to_come_back_and_loses_nothing(valkey: str, run_id: str) -> None:
    log = EventLog(valkey)

    async def scenario(hub: EventHub) -> None:
        slow = hub.follow(stream_key(run_id), START, heartbeat_s=0.2)
        fast = asyncio.ensure_future(collect(hub.follow(stream_key(run_id), START), 3000))
        assert await anext(slow) == []
        while hub.readers(stream_key(run_id)) < 2:
            await anext(slow)
        await asyncio.to_thread(write, log, run_id, *range(3000))
        assert numbers(await fast) == list(range(3000)), "the others are not held up"
        got = [frame async for batch in slow for frame in batch]
        assert got[-1] is RECONNECT
        assert len(got) < 3000
        rest = await collect(hub.follow(stream_key(run_id), got[-2].id if got[:-1] else START), 3001 - len(got))
        assert numbers(got[:-1] + rest) == list(range(3000))

    play(valkey, scenario, queue_size=100)


def test_a_stream_that_is_gone_is_told(valkey: str, run_id: str) -> None:
    async def scenario(hub: EventHub) -> None:
        ended = hub.follow(stream_key(run_id), START, ended=True)
        assert [frame async for batch in ended for frame in batch] == [EXPIRED]
        waiting = asyncio.ensure_future(collect(hub.follow(stream_key(run_id), START), 1))
        await joined(hub, run_id, 1)
        write(EventLog(valkey), run_id, 7)
        assert numbers(await waiting) == [7], "a run that has not begun has no stream yet"

    play(valkey, scenario)


def test_a_trimmed_stream_is_told(valkey: str, run_id: str) -> None:
    write(EventLog(valkey), run_id, *range(10))
    with redis.Redis.from_url(valkey) as connection:
        connection.xtrim(stream_key(run_id), maxlen=4, approximate=False)

    async def scenario(hub: EventHub) -> None:
        frames = await collect(hub.follow(stream_key(run_id), START), 5)
        assert frames[0] is TRIMMED
        assert numbers(frames[1:]) == [6, 7, 8, 9]
        later = await collect(hub.follow(stream_key(run_id), frames[2].id), 2)
        assert numbers(later) == [8, 9]

    play(valkey, scenario)


def test_only_news_without_an_id(valkey: str, run_id: str) -> None:
    log = EventLog(valkey)
    write(log, run_id, 1, 2)

    async def scenario(hub: EventHub) -> None:
        news = asyncio.ensure_future(collect(hub.follow(stream_key(run_id), None), 1))
        await joined(hub, run_id, 1)
        write(log, run_id, 3)
        assert numbers(await news) == [3]

    play(valkey, scenario)


def test_silence_is_an_empty_batch_and_closing_ends_the_stream(valkey: str, run_id: str) -> None:
    async def scenario(hub: EventHub) -> None:
        batches = hub.follow(stream_key(run_id), START, heartbeat_s=0.05)
        assert [await anext(batches) for _ in range(4)] == [[], [], [], []]
        patient = asyncio.ensure_future(collect(hub.follow(stream_key(run_id), START), 1))
        await joined(hub, run_id, 2)
        hub.end_streams()
        assert await patient == []

    play(valkey, scenario)


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as connection:
        return int(connection.info("server")["process_id"])


def test_a_frozen_queue_server_is_told_and_nothing_is_lost(own_valkey: EmbeddedRedis, run_id: str) -> None:
    log, pid = EventLog(own_valkey.url), server_pid(own_valkey.url)
    write(log, run_id, 1)

    async def scenario(hub: EventHub) -> None:
        batches = hub.follow(stream_key(run_id), START)
        assert numbers(await collect(batches, 1)) == [1]
        late = hub.follow(stream_key(run_id), START)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert await collect(batches, 1) == [UNAVAILABLE]
            assert await collect(late, 1) == [UNAVAILABLE]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await collect(batches, 1) == [AVAILABLE]
        write(log, run_id, 2)
        assert numbers(await collect(batches, 1)) == [2]
        frames = await collect(late, 3)
        assert frames[0] is AVAILABLE
        assert numbers(frames[1:]) == [1, 2]

    play(own_valkey.url, scenario)


def test_a_killed_queue_server_comes_back(own_valkey: EmbeddedRedis, run_id: str) -> None:
    write(EventLog(own_valkey.url), run_id, 1)

    async def scenario(hub: EventHub) -> None:
        batches = hub.follow(stream_key(run_id), START)
        last = await collect(batches, 1)
        os.kill(server_pid(own_valkey.url), signal.SIGKILL)
        assert await collect(batches, 1) == [UNAVAILABLE]
        await asyncio.to_thread(own_valkey.stop)
        await asyncio.to_thread(own_valkey.start)
        assert await collect(batches, 1) == [AVAILABLE]
        write(EventLog(own_valkey.url), run_id, 2)
        assert numbers(last + await collect(batches, 1)) == [1, 2]

    play(own_valkey.url, scenario)
