"""The samples tables that the runner writes: columns, keys, media references and row groups."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mlflow_lmms.group_columns import read_groups
from mlflow_lmms.reading.metric_key import MetricKey
from mlflow_lmms.reading.row_key import row_key
from mlflow_lmms.samples import read_media, read_samples
from mlflow_lmms.score_vectors import read_score_vector
from worker.runner.document_records import DocumentRecord, MediaReference, PictureBudget, read_documents
from worker.runner.documents import StoredMedia, image_hash, read_content
from worker.runner.sample_rows import SampleRows
from worker.runner.samples import samples_table, scores_table, write_table
from worker.runner.thumbnails import Thumbnail, thumbnail

KEY, CORPUS = MetricKey("acc", "none"), MetricKey("bleu", "none")


def record(number: int, picture: bytes = b"") -> DocumentRecord:
    """A document with one picture."""
    thumbnail = Thumbnail("image/png", picture) if picture else None
    media = [MediaReference(StoredMedia("image", f"{number:064x}", None, 640, 480), thumbnail)]
    return DocumentRecord(f"{number % 7:064x}", {"kind": "even" if number % 2 == 0 else "odd"}, 1, media)


def rows_of(count: int) -> SampleRows:
    """So many documents with one answer each."""
    return SampleRows(
        doc_ids=list(range(count)),
        inputs=[f"question {number}" for number in range(count)],
        targets=[str(number) for number in range(count)],
        raw_targets=list(range(count)),
        responses=[["half a pair \ud800"] for _ in range(count)],
        filtered={"none": ["x"] * count},
        tokens={"input": [5] * count, "output": [None, *[3] * (count - 1)], "reasoning": [None] * count},
    )


def table(count: int, picture: bytes = b"") -> Any:
    """Their table, with a score of their own and one that does not explain its metric's value."""
    scores: dict[MetricKey, list[float | None]] = {
        KEY: [float(number % 2) for number in range(count)],
        CORPUS: [0.5] * count,
    }
    errored = ["blank answer" if number == 1 else None for number in range(count)]
    return samples_table(
        rows_of(count), scores, errored, {number: record(number, picture) for number in range(count)}
    )


def test_every_column_has_its_type_and_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write_table(file, table(20, b"png"))
    schema = pq.read_schema(file)
    assert schema.names == [
        *("doc_id", "doc_hash", "row_key", "input", "target", "responses", "errored"),
        *("filtered:none", "score:acc:none", "score:bleu:none", "tokens:input", "tokens:output", "doc:kind", "media"),
    ]
    (first, second, *_) = read_samples(file).samples
    assert first.row_key == row_key(0, "question 0", "0")
    assert (first.errored, second.errored) == (None, "blank answer")
    assert (first.tokens, second.tokens) == ({"input": 5}, {"input": 5, "output": 3})
    assert first.responses == ("half a pair ?",)
    (reference,) = first.references
    assert (reference.kind, reference.width, reference.height, reference.stored) == ("image", 640, 480, True)
    assert read_media(file, 19, 0) == ("image/png", b"png")
    assert pq.read_table(file, columns=["score:acc:none"]).num_rows == 20


def test_scores_are_sorted_and_hold_only_what_explains_a_value() -> None:
    scores = scores_table(table(50), [KEY])
    assert scores.column_names == ["doc_hash", "row_key", "doc_id", "score:acc:none"]
    keys = list(zip(*(scores[name].to_pylist() for name in ("doc_hash", "row_key", "doc_id")), strict=True))
    assert keys == sorted(keys)
    assert len(keys) == 50


def test_beside_the_scores_stand_dimensions_and_clusters(tmp_path: Path) -> None:
    kinds = [None if number == 3 else "even" if number % 2 == 0 else "half \ud800" for number in range(50)]
    videos = [None if number == 4 else number // 5 for number in range(50)]
    file = tmp_path / "t.scores.parquet"
    write_table(file, scores_table(table(50), [KEY], {"kind": kinds}, videos))
    vector = read_score_vector(file, "acc", "none")
    documents = pq.read_table(file, columns=["doc_id"])["doc_id"].to_pylist()
    assert vector.clusters is not None
    clusters = dict(zip(documents, vector.clusters.tolist(), strict=True))
    assert clusters[5] == clusters[9] != clusters[10]
    assert len(set(clusters.values())) == 11  # ten videos, and one document that stands alone
    groups = read_groups(file, lambda: file, ["kind", "colour"])
    assert groups.keys() == {"kind"}
    named = {name: {documents[at] for at in places} for name, places in groups["kind"].members()}
    assert named == {"even": set(range(0, 50, 2)), "half ?": set(range(1, 50, 2)) - {3}}
    corpus = scores_table(table(50), [], {"kind": kinds}, videos)
    assert corpus.column_names == ["doc_hash", "row_key", "doc_id"]


@pytest.mark.parametrize(
    ("count", "size", "groups"),
    [
        (0, 0, []),
        (1000, 0, [512, 488]),
        (600, 100, [512, 88]),
        (10, 100_000, [3, 3, 3, 1]),
        (3, 1_000_000, [1, 1, 1]),
    ],
)
def test_a_row_group_holds_few_rows_or_few_pictures(tmp_path: Path, count: int, size: int, groups: list[int]) -> None:
    file = tmp_path / "t.parquet"
    made = table(max(count, 2), bytes(size)).slice(0, count)
    write_table(file, made)
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == groups
    assert pq.read_table(file).equals(made)


def test_every_document_tells_its_media_and_the_first_have_pictures() -> None:
    images = [Image.new("RGB", (300, 200), (number, 0, 0)) for number in range(6)]
    documents = [{"image": image} for image in images]
    task = SimpleNamespace(
        eval_docs=documents, config=SimpleNamespace(doc_to_visual=print), doc_to_visual=lambda doc: [doc["image"]]
    )
    told: list[int] = []
    budget = 2 * len(thumbnail(images[0]).data) + 100
    records = read_documents(task, [5, 4, 3, 2, 1, 0], PictureBudget(budget, 60), told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    stored = [number for number in range(6) if records[number].media[0].picture is not None]
    assert stored == [4, 5]
    for number, image in enumerate(images):
        (reference,) = records[number].media
        media = reference.media
        assert (media.kind, media.sha256, media.width, media.height) == ("image", image_hash(image), 300, 200)
        assert (reference.row()["data"] is None) == (number not in stored)


def test_sounds_and_videos_are_told_without_being_kept() -> None:
    sound = {"array": np.zeros(8000, dtype=np.float32), "sampling_rate": 16_000}
    document = {"audio": sound, "clip": {"bytes": b"mp4 content", "path": "a/b.mp4"}, "raw": {"bytes": b"?"}}
    audio, video, other = read_content(document).media
    assert (audio.kind, audio.seconds) == ("audio", 0.5)
    assert (video.kind, video.mime, video.bytes) == ("video", "video/mp4", 11)
    assert (other.kind, other.bytes) == ("file", 1)
    task = SimpleNamespace(
        eval_docs=[document],
        config=SimpleNamespace(doc_to_visual=print),
        doc_to_visual=lambda _: ["/data/b.mp4", sound, "no file", 7],
    )
    (found,) = read_documents(task, [0], PictureBudget(1000, 60), lambda _: None).values()
    assert [(own.media.kind, own.media.seconds, own.picture) for own in found.media] == [
        ("video", None, None),
        ("audio", 0.5, None),
    ]
