"""Pages of samples and their pictures, read from tables as the runner writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runner_files import doc_hash, write_task

from mlflow_lmms.errors import NotFoundError, UnreadableOutputError
from mlflow_lmms.samples import MediaReference, Sample, SamplesPage, read_media, read_samples

MEDIA = pa.list_(pa.struct([("mime", pa.string()), ("data", pa.binary())]))
NEW_MEDIA = pa.list_(
    pa.struct(
        [
            *((name, pa.string()) for name in ("kind", "mime", "sha256")),
            *((name, pa.int32()) for name in ("width", "height")),
            ("seconds", pa.float64()),
            ("bytes", pa.int64()),
            ("data", pa.binary()),
        ]
    )
)
SCORES = [1.0, 0.0, None, 0.5, 1.0, 2.0]


def table(folder: Path, scores: list[float | None] | None = None, **columns: Any) -> Path:
    write_task(folder, "t", {"acc": SCORES if scores is None else scores}, columns=columns)
    return folder / "samples" / "t.parquet"


def indices(page: SamplesPage) -> list[int]:
    return [sample.index for sample in page.samples]


def test_a_sample_comes_with_everything_that_was_kept(tmp_path: Path) -> None:
    pictures = [[{"mime": "image/png", "data": b"1"}, {"mime": "image/png", "data": b"2"}], *[[]] * 5]
    file = table(tmp_path, media=pa.array(pictures, MEDIA), **{"doc:digit": pa.array([7, 1, 2, 3, 4, 5])})
    first, second, *_ = read_samples(file).samples
    old = MediaReference("image", "image/png", None, None, None, None, None, stored=True)
    assert first == Sample(
        index=0,
        doc_id=0,
        doc_hash=doc_hash(0),
        input="What is in picture 0?",
        target="0",
        responses=("It is 0.",),
        filtered={"none": "0"},
        scores={"acc:none": 1.0},
        columns={"digit": 7},
        media=2,
        references=(old, old),
    )
    assert second.media == 0


def test_pages_follow_each_other(tmp_path: Path) -> None:
    file = table(tmp_path)
    assert read_samples(file).total == 6
    assert indices(read_samples(file, offset=2, limit=3)) == [2, 3, 4]
    assert indices(read_samples(file, offset=5, limit=3)) == [5]
    past = read_samples(file, offset=10)
    assert (indices(past), past.total) == ([], 6)


@pytest.mark.parametrize(
    ("higher_is_better", "wrong"),
    [(True, [1, 2, 3]), (False, [0, 2, 3, 4, 5])],
)
def test_wrong_samples_are_those_without_the_best_score(
    tmp_path: Path, higher_is_better: bool, wrong: list[int]
) -> None:
    page = read_samples(table(tmp_path), metric="acc", higher_is_better=higher_is_better, wrong_only=True)
    assert indices(page) == wrong
    assert page.total == len(wrong)


def test_without_scores_of_the_metric_no_sample_is_judged(tmp_path: Path) -> None:
    file = table(tmp_path)
    assert read_samples(file, metric="f1", wrong_only=True).total == 6
    assert read_samples(file, metric=None, wrong_only=True).total == 6


def test_search_looks_for_all_words_in_input_target_and_responses(tmp_path: Path) -> None:
    responses = pa.array([["a CAT", "a dog"], ["nothing"], [], None, ["dog"], ["(cat|dog)"]], pa.list_(pa.string()))
    file = table(tmp_path, responses=responses)
    assert indices(read_samples(file, search="cat")) == [0, 5]
    assert indices(read_samples(file, search="DOG cat")) == [0, 5]
    assert indices(read_samples(file, search="dog picture")) == [0, 4, 5]
    assert indices(read_samples(file, search="(cat|")) == [5]
    assert indices(read_samples(file, search="picture 3")) == [3]
    assert indices(read_samples(file, search="no such words")) == []
    assert indices(read_samples(file, metric="acc", wrong_only=True, search="nothing")) == [1]


def test_texts_that_are_missing_are_empty(tmp_path: Path) -> None:
    nothing = pa.array([None] * 6, pa.string())
    file = table(tmp_path, input=nothing, target=nothing, **{"filtered:none": nothing})
    sample = read_samples(file).samples[0]
    assert (sample.input, sample.target, sample.filtered) == ("", "", {"none": ""})
    assert read_samples(file, search="x").total == 0


@pytest.mark.parametrize("search", ["", "word"])
def test_an_empty_table_has_no_samples(tmp_path: Path, search: str) -> None:
    file = table(tmp_path, [])
    assert read_samples(file, metric="acc", wrong_only=True, search=search) == SamplesPage((), 0)


@pytest.mark.parametrize("metric", ["IoU@0.5", "a.b", "score:x"])
def test_metrics_with_odd_names_are_judged(tmp_path: Path, metric: str) -> None:
    write_task(tmp_path, "t", {metric: [1.0, 0.0]})
    file = tmp_path / "samples" / "t.parquet"
    assert indices(read_samples(file, metric=metric, wrong_only=True)) == [1]
    assert read_samples(file).samples[0].scores == {f"{metric}:none": 1.0}


def test_columns_of_documents_may_be_called_anything(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        **{"doc:a.b": pa.array(list("abcdef")), "doc:media": pa.array(range(6)), "doc:": pa.array([1.5] * 6)},
    )
    assert read_samples(file).samples[0].columns == {"a.b": "a", "media": 0, "": 1.5}


def test_pictures_are_read_one_by_one(tmp_path: Path) -> None:
    pictures = [[], [{"mime": "image/jpeg", "data": b"\xff\xd8"}], None, [], [], []]
    file = table(tmp_path, media=pa.array(pictures, MEDIA))
    assert read_media(file, 1, 0) == ("image/jpeg", b"\xff\xd8")
    assert read_samples(file).samples[2].media == 0
    for index, number in ((1, 1), (0, 0), (2, 0), (6, 0), (-1, 0), (1, -1)):
        with pytest.raises(NotFoundError, match=f"sample {index} has no picture {number}"):
            read_media(file, index, number)


def test_a_table_without_pictures_is_read_too(tmp_path: Path) -> None:
    file = table(tmp_path)
    pq.write_table(pq.read_table(file).drop_columns(["media"]), file)
    assert [sample.media for sample in read_samples(file).samples] == [0] * 6
    with pytest.raises(NotFoundError):
        read_media(file, 0, 0)


@pytest.mark.parametrize("content", [None, b"", b"no table"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "t.parquet"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnreadableOutputError, match=r"t\.parquet is no samples table"):
        read_samples(file)
    with pytest.raises(UnreadableOutputError, match=r"t\.parquet is no samples table"):
        read_media(file, 0, 0)


def test_another_table_is_no_samples_table(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(UnreadableOutputError, match="is no samples table"):
        read_samples(file)


def test_what_newer_runs_tell_of_a_sample(tmp_path: Path) -> None:
    media = pa.array(
        [
            [
                {"kind": "image", "mime": "image/png", "sha256": "ab", "width": 640, "height": 480, "data": b"1"},
                {"kind": "video", "mime": "video/mp4", "seconds": 1.5, "bytes": 900},
            ]
        ],
        NEW_MEDIA,
    )
    file = table(
        tmp_path,
        [1.0],
        media=media,
        row_key=["k"],
        errored=["blank answer"],
        latency=[0.25],
        **{"tokens:input": [12], "tokens:output": pa.array([None], pa.int64())},
    )
    (sample,) = read_samples(file).samples
    assert (sample.row_key, sample.errored, sample.latency, sample.tokens) == (
        "k",
        "blank answer",
        0.25,
        {"input": 12},
    )
    assert sample.media == 1
    assert sample.references == (
        MediaReference("image", "image/png", "ab", 640, 480, None, None, stored=True),
        MediaReference("video", "video/mp4", None, None, None, 1.5, 900, stored=False),
    )


def test_samples_without_their_documents(tmp_path: Path) -> None:
    file = table(tmp_path, doc_hash=pa.array([None] * 6, pa.string()))
    assert {sample.doc_hash for sample in read_samples(file).samples} == {""}


def test_errored_samples_alone(tmp_path: Path) -> None:
    file = table(tmp_path, errored=pa.array([None, "blank answer", None, None, "judge failed", None], pa.string()))
    assert indices(read_samples(file, errored_only=True)) == [1, 4]
    assert indices(read_samples(file, errored_only=True, wrong_only=True, metric="acc")) == [1]
    assert indices(read_samples(table(tmp_path / "old"), errored_only=True)) == []


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[str, ...]]]:
    """Notes which row groups are read, and which of their columns."""
    noted: list[tuple[int, tuple[str, ...]]] = []
    original = pq.ParquetFile.read_row_group

    def read(self: pq.ParquetFile, number: int, columns: list[str], **options: Any) -> Any:
        noted.append((number, tuple(columns)))
        return original(self, number, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read)
    return noted


@pytest.fixture
def in_groups(tmp_path: Path) -> Path:
    """100 samples with a picture each, in row groups of ten."""
    pictures = [[{"mime": "image/png", "data": bytes([number])}] for number in range(100)]
    file = table(tmp_path, [float(number % 7 == 0) for number in range(100)], media=pa.array(pictures, MEDIA))
    pq.write_table(pq.read_table(file), file, row_group_size=10)
    return file


def test_a_picture_is_read_from_its_row_group_alone(in_groups: Path, groups_read: list[Any]) -> None:
    assert read_media(in_groups, 57, 0) == ("image/png", bytes([57]))
    assert groups_read == [(5, ("media",))]


def test_a_page_is_read_from_its_row_groups_alone(in_groups: Path, groups_read: list[Any]) -> None:
    page = read_samples(in_groups, offset=38, limit=5)
    assert (indices(page), page.total) == ([38, 39, 40, 41, 42], 100)
    assert [sample.doc_id for sample in page.samples] == [38, 39, 40, 41, 42]
    assert [number for number, _ in groups_read] == [3, 4]


def test_a_filter_reads_its_own_columns_of_all_rows(in_groups: Path, groups_read: list[Any]) -> None:
    page = read_samples(in_groups, metric="acc", wrong_only=True, offset=84, limit=5)
    assert (indices(page), page.total) == ([99], 85)
    assert {columns for _, columns in groups_read[:10]} == {("score:acc:none",)}
    assert [number for number, _ in groups_read[10:]] == [9]
