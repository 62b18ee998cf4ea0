"""The three digit readers: trained in seconds, really different, and answering from the pixels and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lmms_digits import answers, dataset, readers
from lmms_digits.pixels import draw, read
from lmms_digits.tasks import scoring
from lmms_digits.train import train
from PIL import Image
from scipy.stats import binomtest

Floats = np.ndarray[Any, np.dtype[np.float64]]

CENTROID, LOGISTIC, NEIGHBOURS = "nearest-centroid", "logistic-regression", "k-nearest-neighbours"
NAMES = (CENTROID, LOGISTIC, NEIGHBOURS)
VQA_PROMPT = "Which digit does the picture show? Answer with one digit."


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(train(tmp_path_factory.mktemp("digit-models")))


@pytest.fixture(scope="session")
def probabilities(artifacts: dict[str, Path]) -> dict[str, Floats]:
    """Per model: what it reads in the 597 test pictures."""
    ink, _ = dataset.ink_and_labels("test")
    models = {name: readers.load(path) for name, path in artifacts.items()}
    return {name: np.stack([model.probabilities(row) for row in ink]) for name, model in models.items()}


def _labels() -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([row["digit"] for row in dataset.digit_rows("test")])


def test_artifacts_hold_plain_arrays(artifacts: dict[str, Path]) -> None:
    assert tuple(artifacts) == NAMES
    for name, folder in artifacts.items():
        assert sorted(file.name for file in folder.iterdir()) == ["reader.json", "weights.npz"]
        assert json.loads((folder / "reader.json").read_text())["kind"] == name
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            assert all(np.isfinite(weights[array]).all() for array in weights.files)


def test_training_twice_gives_the_same_models(artifacts: dict[str, Path], tmp_path: Path) -> None:
    again = train(tmp_path)
    pixels = read(dataset.digit_rows("test")[5]["image"])
    for name in NAMES:
        first, second = (readers.load(folder).probabilities(pixels) for folder in (artifacts[name], again[name]))
        np.testing.assert_array_equal(first, second)


def test_training_command_says_where_the_models_are(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "lmms_digits.train", str(tmp_path / "models")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.splitlines() == [f"{name}: {tmp_path / 'models' / name}" for name in NAMES]


def test_models_differ_and_the_centroid_is_worst(probabilities: dict[str, Floats]) -> None:
    right = {name: (p.argmax(axis=1) == _labels()).mean() for name, p in probabilities.items()}
    assert right[CENTROID] < right[LOGISTIC] < right[NEIGHBOURS]
    assert right[CENTROID] > 0.8


def test_logistic_and_neighbours_tie_on_parity(probabilities: dict[str, Floats]) -> None:
    odd = _labels() % 2 == 1
    right = {name: (p[:, 1::2].sum(axis=1) > 0.5) == odd for name, p in probabilities.items()}
    only_one = int((right[LOGISTIC] & ~right[NEIGHBOURS]).sum())
    only_other = int((right[NEIGHBOURS] & ~right[LOGISTIC]).sum())
    assert only_one > 0
    assert binomtest(only_one, only_one + only_other).pvalue > 0.05
    assert right[CENTROID].mean() < right[LOGISTIC].mean()


def test_probabilities_express_doubt(probabilities: dict[str, Floats]) -> None:
    for p in probabilities.values():
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert p.min() > 0
        certainty, right = p.max(axis=1), p.argmax(axis=1) == _labels()
        assert certainty[right].mean() > certainty[~right].mean() + 0.15


def test_a_tie_of_votes_goes_to_the_smaller_digit() -> None:
    pictures = np.zeros((4, 64))
    reader = readers.KNearestNeighbours(pictures, np.array([7, 2, 7, 2]), np.asarray(4), np.asarray(0.05))
    reading = reader.probabilities(np.zeros(64))
    assert reading[2] == reading[7]
    assert answers.answer(VQA_PROMPT, [reading]) == "2"


def test_loading_something_else_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lmms_digits\.train"):
        readers.load(tmp_path)
    (tmp_path / "reader.json").write_text('{"format": 2, "kind": "oracle"}')
    with pytest.raises(ValueError, match=r"expected format 1 .* got .*oracle"):
        readers.load(tmp_path)


@pytest.fixture(params=NAMES)
def say(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Callable[[dict[str, Any]], str]:
    """What one model answers to a document, through the task's own function for its picture."""
    reader = readers.load(artifacts[request.param])

    def answer(doc: dict[str, Any]) -> str:
        return str(answers.answer(VQA_PROMPT, [reader.probabilities(read(p)) for p in scoring.picture(doc)]))

    return answer


def test_permuted_pixels_change_the_answer(say: Callable[[dict[str, Any]], str]) -> None:
    order = np.random.default_rng(5).permutation(64)
    documents = dataset.digit_rows("test")[:60]
    changed = 0
    for doc in documents:
        grid = read(doc["image"])[order].reshape(8, 8) * 16
        changed += say({**doc, "image": draw(grid)}) != say(doc)
    assert changed > 30


def test_a_changed_label_or_id_does_not_change_the_answer(say: Callable[[dict[str, Any]], str]) -> None:
    for doc in dataset.digit_rows("test")[:60]:
        wrong = (doc["digit"] + 1) % 10
        relabelled = {**doc, "answer": str(wrong), "digit": wrong, "parity": "none", "ink": "none", "source": 0}
        assert say(relabelled) == say(doc)


def test_another_size_or_colour_mode_is_read_alike(say: Callable[[dict[str, Any]], str]) -> None:
    doc = dataset.digit_rows("test")[1]
    larger = doc["image"].resize((256, 256), Image.Resampling.NEAREST).convert("RGB")
    assert say({**doc, "image": larger}) == say(doc)


def _reading(**shares: float) -> Floats:
    reading = np.full(10, 0.001)
    for name, share in shares.items():
        reading[int(name[1:])] = share
    return reading


@pytest.mark.parametrize(
    ("prompt", "readings", "said"),
    [
        (VQA_PROMPT, [_reading(d7=0.9)], "7"),
        ("What is the sum of the digits?", [_reading(d7=0.9), _reading(d8=0.5)], "15"),
        ("Answer with the sentence: The digit is N.", [_reading(d3=0.9)], "The digit is 3."),
        ("Answer with the sentence.", [_reading(d3=0.5, d8=0.4)], "It looks like a 3, but it could be a 8."),
        (f"What is the sum? 4\n\n{VQA_PROMPT}", [_reading(d1=0.9)], "1"),
    ],
)
def test_answers_take_the_form_asked_for(prompt: str, readings: list[Floats], said: str) -> None:
    assert answers.answer(prompt, readings) == said


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 pictures"):
        answers.answer(VQA_PROMPT, [_reading(d1=1.0), _reading(d2=1.0)])
    with pytest.raises(ValueError, match="'purple'"):
        answers.log_likelihood(" purple", _reading(d1=1.0))


def test_likelihood_of_a_word_is_the_sum_over_its_digits() -> None:
    reading = np.array([0.1, 0.2, 0.05, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert np.exp(answers.log_likelihood(" even", reading)) == pytest.approx(0.45)
    assert np.exp(answers.log_likelihood(" odd", reading)) == pytest.approx(0.55)
    assert np.exp(answers.log_likelihood("1", reading)) == pytest.approx(0.2)
    assert np.isfinite(answers.log_likelihood("9", np.zeros(10)))


def test_sampling_follows_temperature_and_seed() -> None:
    reading = _reading(d1=0.5, d7=0.49)

    def draws(temperature: float, seed: int) -> list[int]:
        pick = answers.sampler(temperature, np.random.default_rng(seed))
        return [pick(reading) for _ in range(200)]

    assert set(draws(0.001, 1)) == {1}
    assert {1, 7} <= set(draws(1.0, 1))
    assert draws(1.0, 1) == draws(1.0, 1) != draws(1.0, 2)


# Straight from the model a pair becomes the text of a tuple, out of lmms-eval's response cache that of a list.
@pytest.mark.parametrize("results", [["(-3.0, False)", "(-0.05, True)"], ["[-3.0, False]", "[-0.05, True]"]])
def test_parity_takes_the_likelier_word(results: list[str]) -> None:
    assert scoring.parity_scores({"parity": "odd"}, results) == {"acc": 1.0}
    assert scoring.parity_scores({"parity": "even"}, results) == {"acc": 0.0}
