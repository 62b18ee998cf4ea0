"""Three models that read a digit from 64 ink values, and the artifact folder that holds one of them.

Plain numpy: a box that evaluates needs no scikit-learn. Knows neither prompts nor labels of the test split.
An artifact folder holds `reader.json` (kind and settings) and `weights.npz` (arrays only, never pickled objects).
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DIGITS = 10

_REMEDY = "train the models with `python -m lmms_digits.train FOLDER` and pass one of the folders it prints"


class Reader(ABC):
    """A model: pixels in, one probability per digit out."""

    kind: ClassVar[str]

    @abstractmethod
    def probabilities(self, pixels: Floats) -> Floats:
        """Return the probabilities of the digits 0 to 9 (they add up to 1) for 64 ink values."""


@dataclass(frozen=True)
class NearestCentroid(Reader):
    """The mean picture of each digit; the nearer the mean, the likelier the digit."""

    kind: ClassVar[str] = "nearest-centroid"
    centroids: Floats
    sharpness: Floats

    def probabilities(self, pixels: Floats) -> Floats:
        distances = ((self.centroids - pixels) ** 2).sum(axis=1)
        return _softmax(-self.sharpness * distances)


@dataclass(frozen=True)
class LogisticRegression(Reader):
    """One linear score per digit."""

    kind: ClassVar[str] = "logistic-regression"
    coefficients: Floats
    intercepts: Floats

    def probabilities(self, pixels: Floats) -> Floats:
        return _softmax(self.coefficients @ pixels + self.intercepts)


@dataclass(frozen=True)
class KNearestNeighbours(Reader):
    """The votes of the most similar training pictures; a tie goes to the smaller digit."""

    kind: ClassVar[str] = "k-nearest-neighbours"
    pictures: Floats
    labels: Integers
    k: Integers
    # Added to each digit's votes: no answer is ever impossible, so log-likelihoods stay finite.
    smoothing: Floats

    def probabilities(self, pixels: Floats) -> Floats:
        distances = ((self.pictures - pixels) ** 2).sum(axis=1)
        nearest = np.argsort(distances, kind="stable")[: int(self.k)]
        votes = np.bincount(self.labels[nearest], minlength=DIGITS) + self.smoothing
        return np.asarray(votes / votes.sum())


KINDS: dict[str, type[Reader]] = {
    reader.kind: reader for reader in (NearestCentroid, LogisticRegression, KNearestNeighbours)
}


def save(reader: NearestCentroid | LogisticRegression | KNearestNeighbours, folder: Path) -> Path:
    """Write the model to its artifact folder and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "weights.npz", **{field.name: getattr(reader, field.name) for field in fields(reader)})
    (folder / "reader.json").write_text(json.dumps({"format": 1, "kind": reader.kind}) + "\n")
    return folder


def load(folder: Path) -> Reader:
    """Load a model from its artifact folder."""
    file = folder / "reader.json"
    if not file.is_file():
        raise FileNotFoundError(f"no digit reader in {folder}: expected the file reader.json; {_REMEDY}")
    description = json.loads(file.read_text())
    if description.get("format") != 1 or description.get("kind") not in KINDS:
        raise ValueError(f"{file}: expected format 1 and a kind of {sorted(KINDS)}, got {description}; {_REMEDY}")
    with np.load(folder / "weights.npz", allow_pickle=False) as weights:
        return KINDS[description["kind"]](**weights)


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())
