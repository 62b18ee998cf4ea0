"""Trains the three readers on the 1,200 training pictures, in seconds: `python -m lmms_digits.train FOLDER`.

Never sees a test picture, nor lmms-eval.
"""

import argparse
from pathlib import Path

import numpy as np

from . import readers
from .dataset import ink_and_labels
from .readers import Floats

NEIGHBOURS = 5


def train(folder: Path) -> dict[str, Path]:
    """Train all three models into sub-folders of `folder`; return each model's name and artifact folder."""
    ink, labels = ink_and_labels("train")
    trained = (_nearest_centroid(ink, labels), _logistic_regression(ink, labels), _k_nearest(ink, labels))
    return {reader.kind: readers.save(reader, folder / reader.kind) for reader in trained}


def _nearest_centroid(ink: Floats, labels: readers.Integers) -> readers.NearestCentroid:
    centroids = np.stack([ink[labels == digit].mean(axis=0) for digit in range(readers.DIGITS)])
    variance = ((ink - centroids[labels]) ** 2).mean()
    return readers.NearestCentroid(centroids, np.asarray(variance))


def _logistic_regression(ink: Floats, labels: readers.Integers) -> readers.LogisticRegression:
    # Imported here: scikit-learn takes a second to load, and only this model needs it.
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(ink, labels)
    return readers.LogisticRegression(fitted.coef_, fitted.intercept_)


def _k_nearest(ink: Floats, labels: readers.Integers) -> readers.KNearestNeighbours:
    return readers.KNearestNeighbours(ink, labels, np.asarray(NEIGHBOURS), np.asarray(0.05))


def main() -> None:
    """Train into the folder named on the command line and say where each model is."""
    parser = argparse.ArgumentParser(prog="python -m lmms_digits.train", description="Train the three digit readers.")
    parser.add_argument("folder", type=Path, help="where to put one artifact folder per model")
    for name, path in train(parser.parse_args().folder).items():
        print(f"{name}: {path}")


if __name__ == "__main__":
    main()
