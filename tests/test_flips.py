"""What became of each document from one result to another, read from tables as the runner writes them."""

from __future__ import annotations

import random
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runner_files import FINGERPRINT, doc_hash, write_task

from mlflow_lmms.errors import ConflictError, LmmsError, NotFoundError, UnreadableOutputError
from mlflow_lmms.flip_kinds import FlipKind
from mlflow_lmms.flips import Flips, FlipsPage
from mlflow_lmms.run_reader import RunReader
from mlflow_lmms.score import Score

CHANGED = {FlipKind.CHANGED}


class Runs:
    """Runs with files, and flips between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched = 0
        self.flips = Flips(RunReader(self.fetch), self.fetch)

    def fetch(self, run_id: str, path: str) -> Path:
        self.fetched += 1
        file = self.folder / run_id / path.removeprefix("lmms/")
        if not file.is_file():
            raise NotFoundError(f"no {path}")
        return file

    def write(
        self, run_id: str, scores: Sequence[float | None], answers: Sequence[str] | None = None, **more: Any
    ) -> Score:
        columns = {} if answers is None else {"filtered:none": pa.array(answers, pa.string())}
        write_task(self.folder / run_id, "t", {"acc": scores}, columns=columns | more.pop("columns", {}), **more)
        return Score(
            run_id=run_id, experiment_id="1", model=run_id, suite="s", task="t", metric="acc", filter="none",
            value=0.5, low=None, high=None, n=len(scores), higher_is_better=True, partial=False, attempt=1,
            fingerprint=FINGERPRINT, recorded_at=1.0, factor=1.0,
        )  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def rows(page: FlipsPage) -> list[tuple[str, int, int]]:
    return [(flip.kind, flip.baseline.index, flip.candidate.index) for flip in page.flips]


def test_each_document_is_of_one_kind(runs: Runs) -> None:
    one = runs.write("a", [1.0, 0.0, 0.8, 0.2, 0.0, 1.0, None, 1.0], list("aaaaaaaa"))
    two = runs.write("b", [0.5, 1.0, 0.2, 0.8, 0.0, 1.0, 1.0, None], list("bbbbbabb"))
    page = runs.flips.page(one, two)
    assert rows(page) == [
        ("right_to_wrong", 0, 0),
        ("wrong_to_right", 1, 1),
        ("worse", 2, 2),
        ("better", 3, 3),
        ("changed", 4, 4),
    ]
    assert page.counts == dict.fromkeys(FlipKind, 1)
    assert page.documents == {"baseline": 8, "candidate": 8, "shared": 6}
    assert page.doubts is None
    (flip,) = runs.flips.page(one, two, kinds=CHANGED).flips
    assert (flip.baseline.filtered["none"], flip.candidate.filtered["none"]) == ("a", "b")
    (flip,) = runs.flips.page(one, two, kinds={FlipKind.SAME}).flips
    assert flip.baseline.index == 5


def test_where_lower_is_better_right_is_nothing(runs: Runs) -> None:
    one = replace(runs.write("a", [0.0, 0.4, 2.0, 1.0]), higher_is_better=False)
    two = replace(runs.write("b", [0.4, 0.0, 1.0, 2.0]), higher_is_better=False)
    assert [kind for kind, *_ in rows(runs.flips.page(one, two))] == [
        "right_to_wrong",
        "wrong_to_right",
        "better",
        "worse",
    ]


def test_documents_are_paired_by_content_in_whatever_order_they_stand(runs: Runs) -> None:
    def keys(numbers: Sequence[int]) -> list[str]:
        return [doc_hash(number) for number in numbers]

    one = runs.write("a", [1.0, 1.0, 0.0], hashes=keys([5, 6, 7]))
    two = runs.write("b", [1.0, 0.0, 1.0, 1.0], hashes=keys([9, 6, 7, 8]), fingerprint=FINGERPRINT)
    two = replace(two, fingerprint=FINGERPRINT | {"dataset": "other"})
    page = runs.flips.page(one, two)
    assert rows(page) == [("right_to_wrong", 1, 1), ("wrong_to_right", 2, 2)]
    assert page.documents == {"baseline": 3, "candidate": 4, "shared": 2}
    assert "documents differ" in (page.doubts or "")


def test_any_two_results_are_told_as_one_document_after_the_other_would_be(runs: Runs) -> None:
    random_ = random.Random(3)
    for number in range(20):
        count = random_.randint(0, 60)
        scores = [[random_.choice([0.0, 0.5, 1.0, None]) for _ in range(count)] for _ in "ab"]
        answers = [[random_.choice(["x", "y", ""]) for _ in range(count)] for _ in "ab"]
        one = replace(runs.write(f"a{number}", scores[0], answers[0]), recorded_at=float(number))
        two = replace(runs.write(f"b{number}", scores[1], answers[1]), recorded_at=float(number))
        expected = [
            (_kind(before, after, was != is_), at, at)
            for at, (before, after, was, is_) in enumerate(zip(*scores, *answers, strict=True))
            if before is not None and after is not None
        ]
        page = runs.flips.page(one, two, kinds=list(FlipKind), limit=500)
        assert rows(page) == expected
        counted = Counter(kind for kind, *_ in expected)
        assert page.counts == {kind: counted[kind] for kind in FlipKind}


def _kind(before: float, after: float, other_answer: bool) -> str:
    if before >= 1 > after:
        return "right_to_wrong"
    if after >= 1 > before:
        return "wrong_to_right"
    if before != after:
        return "better" if after > before else "worse"
    return "changed" if other_answer else "same"


def test_words_are_looked_for_in_input_target_and_both_responses(runs: Runs) -> None:
    said = [pa.array([[text] for text in texts]) for texts in (["Cat A", "dog", "dog"], ["dog", "a CAT", "dog"])]
    one = runs.write("a", [1.0, 1.0, 1.0], columns={"responses": said[0]})
    two = runs.write("b", [0.0, 0.0, 0.0], columns={"responses": said[1]})
    found = runs.flips.page(one, two, search="cat a")
    assert (found.total, [index for _, index, _ in rows(found)]) == (2, [0, 1])
    assert [i for _, i, _ in rows(runs.flips.page(one, two, search="picture 2?"))] == [2]
    assert runs.flips.page(one, two, search="% _ .* \\").total == 0
    assert runs.flips.page(one, two, kinds=CHANGED, search="cat").total == 0
    assert found.counts[FlipKind.RIGHT_TO_WRONG] == 3


def test_pages_follow_on_each_other(runs: Runs) -> None:
    one, two = runs.write("a", [1.0] * 95), runs.write("b", [0.0] * 95)
    seen: list[int] = []
    for offset in range(0, 120, 30):
        page = runs.flips.page(one, two, offset=offset, limit=30)
        assert page.total == 95
        seen += [index for _, index, _ in rows(page)]
    assert seen == list(range(95))
    assert runs.flips.page(one, two, offset=10**9).flips == ()


def test_a_result_that_was_recorded_anew_is_read_anew(runs: Runs) -> None:
    one, two = runs.write("a", [1.0, 1.0]), runs.write("b", [0.0, 1.0])
    assert runs.flips.page(one, two).total == 1
    again = replace(runs.write("b", [0.0, 0.0]), recorded_at=2.0)
    assert runs.flips.page(one, again).total == 2


def test_flips_of_a_rescored_result_are_those_of_its_samples(runs: Runs) -> None:
    one, two = runs.write("a", [1.0, 1.0]), runs.write("b", [0.0, 1.0])
    assert runs.flips.page(one, replace(two, warnings=("rescored",), value=0.9)).total == 1


def test_other_metrics_and_missing_scores_are_told(runs: Runs) -> None:
    one, two = runs.write("a", [1.0]), runs.write("b", [0.0])
    with pytest.raises(ConflictError, match="is scored by acc"):
        runs.flips.page(one, replace(two, metric="f1"))
    with pytest.raises(NotFoundError, match="no scores of single documents"):
        runs.flips.page(one, replace(two, run_id="c"))


@pytest.mark.parametrize("spoiled", ["garbage", "truncated", "other rows", "no ids", "no samples", "null ids"])
def test_spoiled_tables_are_told_and_never_guessed(runs: Runs, tmp_path: Path, spoiled: str) -> None:
    one, two = runs.write("a", [1.0, 0.0, 1.0]), runs.write("b", [0.0, 0.0, 1.0])
    file = tmp_path / "b" / "samples" / "t.parquet"
    if spoiled == "garbage":
        file.write_bytes(b"PAR1 no table at all PAR1")
    elif spoiled == "truncated":
        file.write_bytes(file.read_bytes()[:-20])
    elif spoiled == "other rows":
        pq.write_table(pq.read_table(file).slice(1), file)
    elif spoiled == "no ids":
        pq.write_table(pq.read_table(file).drop_columns(["doc_id"]), file)
    elif spoiled == "null ids":
        table = pq.read_table(file)
        place = table.column_names.index("doc_id")
        pq.write_table(table.set_column(place, "doc_id", pa.nulls(3, pa.int64())), file)
    else:
        file.unlink()
    with pytest.raises(LmmsError) as told:
        runs.flips.page(one, two)
    assert isinstance(told.value, UnreadableOutputError | NotFoundError)


def test_a_document_that_stands_twice_is_paired_in_order(runs: Runs) -> None:
    keys = [doc_hash(1), doc_hash(1), doc_hash(2)]
    one = runs.write("a", [1.0, 0.0, 1.0], hashes=keys)
    two = replace(runs.write("b", [0.0, 0.0, 1.0], hashes=keys), fingerprint=FINGERPRINT | {"dataset": "o"})
    page = runs.flips.page(one, two, kinds=list(FlipKind))
    assert page.documents["shared"] == 3
    assert page.counts[FlipKind.RIGHT_TO_WRONG] == 1


def test_of_many_documents_little_is_in_memory_at_a_time(runs: Runs, tmp_path: Path) -> None:
    """Texts of 200 MB; what is held in Python, pyarrow's own pool included, stays far below."""
    count = 100_000
    generator = np.random.default_rng(5)
    for run in "ab":
        scores = (generator.random(count) < 0.6).astype(float).tolist()
        write_task(tmp_path / run, "t", {"acc": scores})
        file = tmp_path / run / "samples" / "t.parquet"
        table = pq.read_table(file)
        long = pa.array([f"{number} " + "word " * 200 for number in range(count)])
        table = table.set_column(table.column_names.index("input"), "input", long)
        pq.write_table(table, file, row_group_size=2_000)
        del table, long
    one, two = runs.write("x", [1.0]), runs.write("y", [1.0])
    one, two = replace(one, run_id="a"), replace(two, run_id="b")
    pool = pa.default_memory_pool()
    pool.release_unused()
    before = pool.bytes_allocated()
    tracemalloc.start()
    page = runs.flips.page(one, two, search="99999 word")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert page.total <= 1 and sum(page.counts.values()) == count
    assert peak < 60_000_000
    assert pool.bytes_allocated() - before < 20_000_000
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
