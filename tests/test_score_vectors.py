"""Score vectors: read from the small table, and two of them paired by document content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner_files import doc_hash, write_task

from mlflow_lmms.errors import UnreadableOutputError
from mlflow_lmms.score_vectors import DocumentKeys, ScoreVector, pair, read_score_vector

KEYS = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1)), max_size=12)


def vector(*entries: tuple[str, float]) -> ScoreVector:
    ordered = sorted(entries, key=lambda entry: entry[0])
    keys = DocumentKeys(np.asarray([key for key, _ in ordered], dtype=np.bytes_), None)
    return ScoreVector(np.asarray([value for _, value in ordered], dtype=float), lambda: keys)


def scores_file(folder: Path) -> Path:
    return folder / "samples" / "t.scores.parquet"


def test_scores_are_read_in_the_order_of_their_keys(tmp_path: Path) -> None:
    write_task(tmp_path, "t", {"acc": [0.0, 1.0, 0.5, 0.25]})
    found = read_score_vector(scores_file(tmp_path), "acc", "none")
    expected = sorted(zip(map(doc_hash, range(4)), [0.0, 1.0, 0.5, 0.25], strict=True))
    assert found.keys.content is not None
    assert [(key.decode(), value) for key, value in zip(found.keys.content, found.values, strict=True)] == expected


@pytest.mark.parametrize("dataset", [None, "d"])
def test_documents_without_a_score_pair_with_nothing(tmp_path: Path, dataset: str | None) -> None:
    write_task(tmp_path, "t", {"acc": [None, 1.0, float("nan"), float("inf"), 0.0]})
    found = read_score_vector(scores_file(tmp_path), "acc", "none", dataset)
    assert sorted(found.values[np.isfinite(found.values)].tolist()) == [0.0, 1.0]
    one, two = pair(found, found)
    assert sorted(one.tolist()) == sorted(two.tolist()) == [0.0, 1.0]


def test_of_one_dataset_the_keys_are_not_read(tmp_path: Path) -> None:
    for name, scores in (("one", [0.0, 1.0, None, 0.25]), ("two", [1.0, 0.0, 0.5, 0.75])):
        write_task(tmp_path / name, "t", {"acc": scores})
    files = [scores_file(tmp_path / name) for name in ("one", "two")]
    quick = pair(*(read_score_vector(file, "acc", "none", "d") for file in files))
    by_key = pair(*(read_score_vector(file, "acc", "none") for file in files))
    assert [values.tolist() for values in quick] == [values.tolist() for values in by_key]
    vectors = [read_score_vector(file, "acc", "none", "d") for file in files]
    for file in files:
        file.unlink()
    assert len(pair(*vectors)[0]) == 3
    with pytest.raises(UnreadableOutputError, match="documents of"):
        pair(vectors[0], read_score_vector_of("other"))


def read_score_vector_of(dataset: str) -> ScoreVector:
    """A vector over other documents."""
    return ScoreVector(np.zeros(4), lambda: DocumentKeys(None, None), dataset)


def test_keys_of_all_lengths_are_read(tmp_path: Path) -> None:
    keys = ["", "a", "名前", "x" * 300]
    file = tmp_path / "t.scores.parquet"
    table = pa.table({"doc_hash": pa.array(keys), "score:acc:none": pa.array([0.0, 1.0, 2.0, 3.0])})
    pq.write_table(table, file, row_group_size=2)
    assert pair(read_score_vector(file, "acc", "none"), vector(("a", 5.0)))[0].tolist() == [1.0]
    found = read_score_vector(file, "acc", "none").keys.content
    assert found is not None
    assert [key.decode() for key in found] == keys


@pytest.mark.parametrize("values", [[], [None, None]])
def test_a_table_without_scores_gives_an_empty_vector(tmp_path: Path, values: list[float | None]) -> None:
    write_task(tmp_path, "t", {"acc": values})
    found = read_score_vector(scores_file(tmp_path), "acc", "none")
    assert np.isnan(found.values).all()
    one, two = pair(found, vector(("a", 1.0)))
    assert len(one) == len(two) == 0


@pytest.mark.parametrize("metric", ["IoU@0.5", "a.b.c", "fine-grained & more", "score:x", "名", "list.item"])
def test_metrics_with_odd_names_are_found(tmp_path: Path, metric: str) -> None:
    write_task(tmp_path, "t", {metric: [1.0, 0.0]}, filter_name="get.answer")
    assert sorted(read_score_vector(scores_file(tmp_path), metric, "get.answer").values) == [0.0, 1.0]


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_task(tmp_path, "t", {"acc": [1.0]})
    for metric, filter_name in (("f1", "none"), ("acc", "strict")):
        with pytest.raises(UnreadableOutputError, match=f"no scores of {metric}, filter {filter_name}"):
            read_score_vector(scores_file(tmp_path), metric, filter_name)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "t.scores.parquet"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnreadableOutputError, match=r"t\.scores\.parquet"):
        read_score_vector(file, "acc", "none")


def test_pairing_takes_the_documents_of_both() -> None:
    one, two = pair(vector(("a", 1.0), ("b", 2.0), ("d", 4.0)), vector(("d", 40.0), ("c", 30.0), ("a", 10.0)))
    assert (one.tolist(), two.tolist()) == ([1.0, 4.0], [10.0, 40.0])


def test_a_document_that_stands_twice_is_paired_twice_in_order() -> None:
    one, two = pair(vector(("a", 1.0), ("a", 2.0), ("b", 3.0)), vector(("a", 10.0), ("a", 20.0), ("a", 30.0)))
    assert (one.tolist(), two.tolist()) == ([1.0, 2.0], [10.0, 20.0])


@given(KEYS, KEYS)
def test_pairing_matches_as_many_as_both_have_and_is_the_same_both_ways(
    first: list[tuple[str, float]], second: list[tuple[str, float]]
) -> None:
    one, two = vector(*first), vector(*second)
    left, right = pair(one, two)
    back_right, back_left = pair(two, one)
    assert (left.tolist(), right.tolist()) == (back_left.tolist(), back_right.tolist())
    keys = [key for key, _ in first]
    others = [key for key, _ in second]
    assert len(left) == sum(min(keys.count(key), others.count(key)) for key in "abcd")


@given(KEYS)
def test_a_vector_pairs_with_itself_whole(entries: list[tuple[str, float]]) -> None:
    whole = vector(*entries)
    one, two = pair(whole, whole)
    assert one.tolist() == two.tolist()
    assert sorted(one.tolist()) == sorted(whole.values.tolist())


def in_both_keys(folder: Path, scores: list[float], rows: str, *, content: bool) -> ScoreVector:
    """A task's vector, its documents known by the letters `rows`; without `content` only by these."""
    write_task(folder, "t", {"acc": scores}, row_keys=list(rows))
    file = scores_file(folder)
    if not content:
        table = pq.read_table(file)
        hidden = pa.array([None] * table.num_rows, pa.string())
        pq.write_table(table.set_column(0, "doc_hash", hidden), file)
    return read_score_vector(file, "acc", "none")


def test_documents_that_are_not_at_hand_are_paired_by_row(tmp_path: Path) -> None:
    live = in_both_keys(tmp_path / "live", [0.1, 0.2, 0.3], "cab", content=True)
    imported = in_both_keys(tmp_path / "imported", [1.0, 2.0, 3.0], "bcx", content=False)
    assert live.keys.content is not None
    assert imported.keys.content is None
    for one, two in (pair(live, imported), pair(imported, live)[::-1]):
        assert sorted(zip(one.tolist(), two.tolist(), strict=True)) == [(0.1, 2.0), (0.3, 1.0)]
    one, two = pair(imported, imported)
    assert one.tolist() == two.tolist() == [1.0, 2.0, 3.0]


def test_nothing_pairs_a_row_with_content_alone(tmp_path: Path) -> None:
    write_task(tmp_path / "old", "t", {"acc": [1.0, 0.0]})
    imported = in_both_keys(tmp_path / "imported", [1.0, 0.0], "ab", content=False)
    one, two = pair(read_score_vector(scores_file(tmp_path / "old"), "acc", "none"), imported)
    assert len(one) == len(two) == 0
