"""What a terminal, a file and a program see of evaluations that run: progress, ends, boards and smoke samples."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image
from rich.console import Console

from mlflow_lmms.cli.follow import failed, follow
from mlflow_lmms.cli.leaderboard import print_board
from mlflow_lmms.cli.smoke import drawing, show_smoke
from mlflow_lmms.client import Client
from mlflow_lmms.errors import LmmsError, NotAllowedError

Event = dict[str, Any]


def state(run_state: str, task: str, task_state: str, identifier: str, **more: Any) -> Event:
    data = {"run_state": run_state, "task": task, "state": task_state, "attempt": 1, **more}
    return {"id": identifier, "kind": "state", "data": data}


def progress(task: str, done: int, total: int, phase: str = "generate") -> Event:
    data = {"task": task, "phase": phase, "done": done, "total": total, "rate": 12.5, "eta_s": 3.0}
    return {"id": "1-0", "kind": "progress", "data": data}


def score(task: str, value: float) -> Event:
    data = {"task": task, "metric": "exact_match", "value": value, "low": value - 0.1, "high": value + 0.1}
    return {"id": "1-0", "kind": "score", "data": data}


class Scripted:
    """A client whose server tells what it was given; each list of events is one connection to the stream."""

    def __init__(self, streams: dict[str, list[list[Event]]], states: dict[str, list[str]]) -> None:
        self.streams = streams
        self.states = states
        self.asked_after: list[str | None] = []

    def evaluation(self, run_id: str) -> dict[str, Any]:
        states = self.states[run_id]
        now = states.pop(0) if len(states) > 1 else states[0]
        return {"run_id": run_id, "model": f"model {run_id}", "state": now, "request": {}, "tasks": []}

    def events(self, run_id: str, *, after: str | None = None) -> Iterator[Event]:
        self.asked_after.append(after)
        yield from self.streams[run_id].pop(0)


def shown(client: Scripted, *run_ids: str) -> str:
    out = io.StringIO()
    follow(cast(Client, client), run_ids, Console(file=out, width=120))
    return out.getvalue()


WHOLE = [
    progress("mme", 0, 8, "dataset"),
    *(progress("mme", done, 8) for done in range(1, 9)),
    score("mme", 0.5),
    state("finished", "mme", "finished", "9-0", score=0.5, metric="exact_match"),
]


def test_a_file_gets_a_line_for_each_quarter_and_the_end() -> None:
    text = shown(Scripted({"a": [WHOLE]}, {"a": ["running", "finished"]}), "a")
    lines = text.splitlines()
    assert [line.split("· ")[-1] for line in lines[:-1]] == [f"{done} of 8 answers" for done in (2, 4, 6, 8)]
    assert lines[-1] == "✓ model a · mme  finished  exact_match 0.5"


def test_a_terminal_gets_a_bar_with_rate_and_running_score() -> None:
    out = io.StringIO()

    class Paced(Scripted):
        def events(self, run_id: str, *, after: str | None = None) -> Iterator[Event]:
            yield from WHOLE[:-1]
            deadline = time.monotonic() + 20
            while "[0.400, 0.600]" not in out.getvalue() and time.monotonic() < deadline:
                time.sleep(0.02)  # the bar is drawn ten times a second
            yield WHOLE[-1]

    console = Console(file=out, force_terminal=True, width=140, color_system=None)
    follow(cast(Client, Paced({}, {"a": ["running", "finished"]})), ["a"], console)
    bar = r"model a · mme · generate .* 8/8 .*12\.5/s, 3 s left exact_match 0\.500 \[0\.400, 0\.600\]"
    assert re.search(bar, out.getvalue())
    assert "✓ model a · mme  finished  exact_match 0.5" in out.getvalue()


def test_files_that_are_fetched_beforehand_are_shown_in_megabytes() -> None:
    out = io.StringIO()
    fetched = progress("", 12_000_000_000, 33_000_000_000, "fetch")
    fetched["data"] |= {"task": None, "rate": None, "eta_s": None}

    class Paced(Scripted):
        def events(self, run_id: str, *, after: str | None = None) -> Iterator[Event]:
            yield fetched
            deadline = time.monotonic() + 20
            while "12000/33000" not in out.getvalue() and time.monotonic() < deadline:
                time.sleep(0.02)
            yield WHOLE[-1]

    console = Console(file=out, force_terminal=True, width=140, color_system=None)
    follow(cast(Client, Paced({}, {"a": ["queued", "finished"]})), ["a"], console)
    assert re.search(r"model a · files · MB fetched .* 12000/33000", out.getvalue())


def test_several_evaluations_are_followed_to_the_last_end() -> None:
    failure = [state("failed", "mme", "failed", "2-0")]
    client = Scripted({"a": [WHOLE], "b": [failure]}, {"a": ["running", "finished"], "b": ["running", "failed"]})
    out = io.StringIO()
    ended = follow(cast(Client, client), ["a", "b"], Console(file=out, width=120))
    assert [failed(evaluation) for evaluation in ended] == [False, True]
    assert "✗ model b · mme  failed" in out.getvalue()


def test_the_end_of_an_earlier_attempt_is_not_the_end() -> None:
    first = [state("failed", "mme", "failed", "5-0")]
    second = [state("finished", "mme", "finished", "9-0", attempt=2, score=1.0, metric="acc")]
    client = Scripted({"a": [first, second]}, {"a": ["running", "running", "finished"]})
    text = shown(client, "a")
    assert client.asked_after == [None, "5-0"]
    assert "✓ model a · mme  finished  acc 1" in text


def test_a_refusal_of_the_server_is_raised() -> None:
    class Refusing(Scripted):
        def events(self, run_id: str, *, after: str | None = None) -> Iterator[Event]:
            raise NotAllowedError("not yours")

    with pytest.raises(LmmsError, match="not yours"):
        shown(Refusing({}, {"a": ["running"]}), "a")


def board() -> dict[str, Any]:
    cell: dict[str, Any] = {
        "value": 0.965,
        "low": 0.947,
        "high": 0.977,
        "rank": 1,
        "tied": False,
        "rank_interval": [1, 1],
        "note": None,
        "flagged": [],
    }
    other = {**cell, "value": 0.5, "rank": 2, "tied": True, "rank_interval": [2, 3]}
    odd = {**cell, "rank": None, "low": None, "high": None, "note": "not comparable: the documents differ"}
    odd["flagged"] = ["below_chance"]
    published = {"value": 0.97, "source": "a paper [3]"}
    columns = [
        {"task": "digits_vqa", "metric": "exact_match", "higher_is_better": True},
        {"task": "errors", "metric": "wer", "higher_is_better": False},
    ]
    rows: list[dict[str, Any]] = [
        {"model": "knn v1", "rank": 1, "win_rate": 1.0, "cells": {"digits_vqa": cell, "errors": odd}},
        {"model": "centroid v1", "rank": 2, "win_rate": None, "cells": {"digits_vqa": other}},
        {"model": "other", "rank": None, "win_rate": None, "cells": {}},
    ]
    reported: list[dict[str, Any]] = [{}, {}, {"digits_vqa": [published]}]
    rows = [{**row, "reported": own} for row, own in zip(rows, reported, strict=True)]
    return {"columns": columns, "rows": rows, "verdicts": ["knn v1 beats centroid v1"], "left_out": ["1 result"]}


def test_a_board_shows_intervals_ranks_ties_and_words() -> None:
    out = io.StringIO()
    print_board(board(), Console(file=out, width=160))
    text = out.getvalue()
    assert "0.965 [0.947, 0.977] #1" in text
    assert "0.500 [0.947, 0.977] #2–3" in text
    assert "wer ↓" in text
    assert "0.965 [1] [2]" in text
    assert "[1] not comparable: the documents differ" in text and "[2] below chance" in text
    assert "(0.970 reported by a paper [3])" in text
    assert "• knn v1 beats centroid v1" in text
    assert "not shown: 1 result" in text


def test_many_tasks_stand_below_each_other() -> None:
    wide = board()
    wide["columns"] += [{"task": f"more_{n}", "metric": "acc", "higher_is_better": True} for n in range(20)]
    out = io.StringIO()
    print_board(wide, Console(file=out, width=150))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= 150
    assert lines[1].split() == ["1", "knn", "v1", "1.00", "2", "of", "22"]
    (doubtful,) = [line for line in lines if line.endswith("not comparable: the documents differ; below chance")]
    assert doubtful.split()[:6] == ["errors", "wer", "↓", "knn", "v1", "0.965"]
    assert sum("reported by a paper [3]" in line for line in lines) == 1


def test_an_empty_board_says_what_to_do() -> None:
    out = io.StringIO()
    print_board({"columns": [], "rows": [], "verdicts": [], "left_out": []}, Console(file=out, width=160))
    assert "mlflow-lmms submit" in out.getvalue()


def png(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(content, "PNG")
    return content.getvalue()


def test_a_picture_is_drawn_in_half_blocks_of_its_colours() -> None:
    drawn = drawing(png((64, 64)))
    assert drawn is not None
    rows = drawn.plain.splitlines()
    assert [len(row) for row in rows] == [32] * 16
    assert "#ff0000 on #ff0000" in {str(span.style) for span in drawn.spans}
    assert drawing(b"no picture") is None


def test_a_smoke_run_shows_prompt_picture_response_and_answer() -> None:
    class Sampled(Scripted):
        def samples(self, run_id: str, task: str, **_: Any) -> dict[str, Any]:
            sample = {"index": 0, "doc_id": 7, "input": "Which digit?", "target": "3", "responses": ["It is 3."]}
            sample |= {"filtered": {"none": "3"}, "scores": {"exact_match:none": 1.0}, "media": ["/some/url"]}
            return {"samples": [sample], "total": 1}

        def media(self, run_id: str, task: str, index: int, number: int) -> bytes:
            return png((8, 8))

    tasks = [
        {"task": "digits_vqa", "state": "finished", "message": None},
        {"task": "broken", "state": "failed", "message": "no data"},
    ]
    evaluation = {"run_id": "abcdef123456", "request": {"smoke": 1}, "tasks": tasks}
    out = io.StringIO()
    show_smoke(cast(Client, Sampled({}, {})), evaluation, Console(file=out, width=160))
    text = out.getvalue()
    expected = (
        "Which digit?",
        "It is 3.",
        "answer    3",
        "expected  3",
        "exact_match:none 1",
        "broken failed: no data",
    )
    assert [words for words in expected if words not in text] == []
    path = next(word for word in text.split() if word.endswith(".png"))
    assert Path(path).read_bytes() == png((8, 8))
