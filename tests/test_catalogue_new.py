"""`catalog new`: what it writes is a sound benchmark that lmms-eval runs; what cannot be one is refused by line."""

from __future__ import annotations

import importlib.util
import json
import wave
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlflow_lmms.catalogue import read_catalogue
from mlflow_lmms.catalogue.folder_check import check_folder
from mlflow_lmms.catalogue.new_documents import Columns, NewDocuments, read_new_documents
from mlflow_lmms.catalogue.new_task import check_name, write_task
from mlflow_lmms.catalogue.trial_run import try_task
from mlflow_lmms.errors import InvalidRequestError, UnreadableOutputError
from mlflow_lmms.samples import read_samples


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with pictures, a sound and something that is no picture."""
    folder = tmp_path / "media"
    (folder / "deep").mkdir(parents=True)
    for name, colour in (("deep/red.png", "red"), ("blue.jpg", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    with wave.open(str(folder / "tone.wav"), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(range(256)) * 100)
    (folder / "text.png").write_text("no picture")
    (folder / "clip.mp4").write_bytes(b"not looked into before it is shown")
    (tmp_path / "outside.png").write_bytes((folder / "deep/red.png").read_bytes())
    return folder


def write_rows(folder: Path, *rows: object) -> Path:
    """Rows as JSON lines; texts as they are."""
    file = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


PICTURES = [
    {"question": "Which colour?", "answer": colour, "image": file, "family": family, "id": at}
    for at, (colour, file, family) in enumerate(
        [("red", "deep/red.png", "warm"), ("blue", "blue.jpg", "cold"), ("red", "deep/red.png", "warm"),
         ("blue", "blue.jpg", "cold")]
    )
]  # fmt: skip


def read(folder: Path, media: Path | None, *rows: object, **columns: Any) -> NewDocuments:
    """The documents of some rows."""
    return read_new_documents(write_rows(folder, *rows), media, Columns(**columns))


def scoring_of(folder: Path) -> Any:
    """The written scoring code, imported as lmms-eval does."""
    spec = importlib.util.spec_from_file_location("scoring", folder / "scoring.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The written documents."""
    return [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]


def test_what_is_written_is_a_sound_benchmark(tmp_path: Path, media: Path) -> None:
    folder = tmp_path / "colours"
    write_task("colours", folder, read(tmp_path, media, *PICTURES))
    report = check_folder(folder)
    assert report.problems == ()
    task = read_catalogue([folder]).tasks["colours"]
    assert (task.modality.value, task.dimensions.value, task.download.value) == ("image", ("family",), False)
    assert [(m.name, m.aggregation, m.higher_is_better) for m in task.metrics] == [("exact_match", "mean", True)]
    first = rows_of(folder)[0]
    assert first["media"] == ["deep/red.png"]
    assert len(first["media_sha256"][0]) == 64
    (picture,) = scoring_of(folder).images(first)
    assert picture.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("file", "modality"), [("tone.wav", "audio"), ("clip.mp4", "video"), ("blue.jpg", "image"), (None, "text")]
)
def test_each_kind_of_media_is_known_as_what_it_is(
    tmp_path: Path, media: Path, file: str | None, modality: str
) -> None:
    row = {"question": "?", "answer": 1} | ({"file": file} if file else {})
    write_task("kind", tmp_path / "kind", read(tmp_path, media, row, row))
    assert read_catalogue([tmp_path / "kind"]).tasks["kind"].modality.value == modality
    assert check_folder(tmp_path / "kind").ok


def test_a_sound_is_decoded_to_one_channel(tmp_path: Path, media: Path) -> None:
    pytest.importorskip("av")
    write_task("tones", tmp_path / "tones", read(tmp_path, media, {"question": "?", "answer": "a", "s": "tone.wav"}))
    (sound,) = scoring_of(tmp_path / "tones").sounds(rows_of(tmp_path / "tones")[0])
    assert sound["sampling_rate"] == 16_000
    assert sound["array"].ndim == 1
    assert len(sound["array"]) == pytest.approx(2 * 25_600 / 4, rel=0.05)


@pytest.mark.parametrize(
    ("said", "right"), [("B", 1.0), ("b.", 1.0), ("B. dog", 1.0), ("Dog", 1.0), ("A", 0.0), ("cat", 0.0), ("", 0.0)]
)
@pytest.mark.parametrize("answer", ["dog", "B"])
def test_a_choice_may_be_answered_by_letter_or_text(tmp_path: Path, answer: str, said: str, right: float) -> None:
    row = {"question": "Which?", "choices": ["cat", "dog"], "answer": answer}
    write_task("pick", tmp_path / "pick", read(tmp_path, None, row))
    code, (document,) = scoring_of(tmp_path / "pick"), rows_of(tmp_path / "pick")
    assert code.score(document, [said]) == {"exact_match": right}
    assert "A. cat\nB. dog" in code.prompt(document)


def test_several_right_answers_and_columns_of_other_names(tmp_path: Path) -> None:
    row = {"q": "2 + 2?", "a": [4, "four"], "level": "easy"}
    write_task("sums", tmp_path / "sums", read(tmp_path, None, row, question="q", answer="a", dimensions=("level",)))
    code, (document,) = scoring_of(tmp_path / "sums"), rows_of(tmp_path / "sums")
    assert [code.score(document, [said])["exact_match"] for said in ("4", " FOUR. ", "5")] == [1, 1, 0]
    assert read_catalogue([tmp_path / "sums"]).tasks["sums"].dimensions.value == ("level",)


def test_columns_of_mixed_types_become_one_type(tmp_path: Path) -> None:
    rows = [{"question": "?", "answer": "a", "n": 1}, {"question": "?", "answer": "a", "n": "x"}]
    write_task("mixed_types", tmp_path / "out", read(tmp_path, None, *rows, {"question": "?", "answer": ["a", "b"]}))
    assert [row["n"] for row in rows_of(tmp_path / "out")] == ["1", "x", None]


GOOD = {"question": "?", "answer": "a"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"question": ', "no JSON: Expecting value at column 14"),
        ("[1]", "expected a JSON object, got a list"),
        ({"question": "?"}, "got question: name yours: --answer COLUMN"),
        ({"answer": "?", "other": 1}, "name yours: --question COLUMN"),
        ({"question": "?", "answer": {}}, "'answer' holds no answer"),
        ({**GOOD, "image": "gone.png"}, "names gone.png, which is not in"),
        ({**GOOD, "image": "../outside.png"}, "names ../outside.png, outside of"),
        ({**GOOD, "image": "/etc/secret.png"}, "outside of"),
        ({**GOOD, "image": "text.png"}, "no image that can be read: not in a known format"),
        ({"question": "?", "answer": 2, "choices": ["x", "y"]}, "'2' is neither one of the 2 choices"),
        ({**GOOD, "media_sha256": "x"}, "'media_sha256' is one that the new task writes itself"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, media: Path, row: object, said: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(tmp_path, media, GOOD, row)
    assert refused.value.message.startswith(f"{tmp_path / 'rows.jsonl'}:2: ")
    assert said in refused.value.message


def test_all_bad_rows_are_named_up_to_a_limit(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(tmp_path, None, *["x"] * 20)
    assert refused.value.message.count("rows.jsonl:") == 8
    assert "and 12 more" in refused.value.message


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "has no documents"), (b"\xff", "not UTF-8"), (None, "cannot be read")]
)
def test_a_file_that_is_no_list_of_documents(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "odd.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=said):
        read_new_documents(file, None, Columns())


def test_media_and_dimensions_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="is not a folder"):
        read(tmp_path, tmp_path / "nowhere", GOOD)
    with pytest.raises(InvalidRequestError, match="--media FOLDER"):
        read(tmp_path, None, {**GOOD, "image": "a.png"})
    with pytest.raises(InvalidRequestError, match="no column 'zz' for --dimension"):
        read(tmp_path, None, GOOD, dimensions=("zz",))


@pytest.mark.parametrize("name", ["mme", "mmlu", "math_word_problems"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="already"):
        check_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a,b", "../up", "a@b", ".hidden", "é"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="a task's name is letters"):
        check_name(name)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    with pytest.raises(InvalidRequestError, match="not empty"):
        write_task("there", tmp_path / "there", read(tmp_path, None, GOOD))


@pytest.mark.lmms_eval
def test_the_real_lmms_eval_runs_what_was_written(tmp_path: Path, media: Path) -> None:
    documents = read(tmp_path, media, *PICTURES)
    write_task("colours", tmp_path / "colours", documents)
    work = tmp_path / "work"
    work.mkdir()
    trial = try_task("colours", tmp_path / "colours", documents.documents[0].answers, work)
    first, second = read_samples(trial.samples_file).samples
    assert trial.answer == "red"
    assert (first.input, first.target, first.responses) == (
        "Which colour?\nAnswer with a word or a short phrase.",
        "red",
        ("red",),
    )
    assert (list(first.scores.values()), list(second.scores.values())) == ([1.0], [0.0])
    assert [reference.kind for reference in first.references] == ["image"]
    assert first.columns["family"] == "warm"


@pytest.mark.lmms_eval
def test_a_task_that_does_not_run_says_why(tmp_path: Path) -> None:
    write_task("broken", tmp_path / "broken", read(tmp_path, None, GOOD))
    code = tmp_path / "broken" / "scoring.py"
    code.write_text(code.read_text().replace("def score(", "def scored("))
    (tmp_path / "work").mkdir()
    with pytest.raises(UnreadableOutputError, match=r"does not run.*score"):
        try_task("broken", tmp_path / "broken", ("a",), tmp_path / "work")
