"""Trains the three readers on the 1,200 training pictures, in seconds: `python -m lmms_digits.train FOLDER`.

Never sees a test picture, nor lmms-eval.
"""

import argparse
from pathlib import Path

import numpy as np

from . import readers
from .dataset import ink_and_labels
from .readers import Floats, Integers

NEIGHBOURS = 5
# Votes that every digit gets beforehand: five neighbours who agree make an answer likely, never certain.
SMOOTHING = 0.05


def train(folder: Path) -> dict[str, Path]:
    """Train all three models into sub-folders of `folder`; return each model's name and artifact folder."""
    ink, labels = ink_and_labels("train")
    trained = (_nearest_centroid(ink, labels), _logistic_regression(ink, labels), _k_nearest(ink, labels))
    return {reader.kind: readers.save(reader, folder / reader.kind) for reader in trained}


def _nearest_centroid(ink: Floats, labels: Integers) -> readers.NearestCentroid:
    centroids = np.stack([ink[labels == digit].mean(axis=0) for digit in range(readers.DIGITS)])
    return readers.NearestCentroid(centroids, np.asarray(_best_sharpness(centroids, ink, labels)))


def _best_sharpness(centroids: Floats, ink: Floats, labels: Integers) -> float:
    """The sharpness that makes the training labels likeliest: distances alone say nothing about certainty."""
    # Imported here, like scikit-learn below: each takes a while to load and serves one model only.
    from scipy.optimize import minimize_scalar

    def surprise(sharpness: float) -> float:
        reader = readers.NearestCentroid(centroids, np.asarray(sharpness))
        likelihoods = [reader.probabilities(pixels)[label] for pixels, label in zip(ink, labels, strict=True)]
        return -float(np.log(likelihoods).sum())

    return float(minimize_scalar(surprise, bounds=(0.1, 10), method="bounded").x)


def _logistic_regression(ink: Floats, labels: Integers) -> readers.LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(ink, labels)
    return readers.LogisticRegression(fitted.coef_, fitted.intercept_)


def _k_nearest(ink: Floats, labels: Integers) -> readers.KNearestNeighbours:
    return readers.KNearestNeighbours(ink, labels, np.asarray(NEIGHBOURS), np.asarray(SMOOTHING))


def main() -> None:
    """Train into the folder named on the command line and say where each model is."""
    parser = argparse.ArgumentParser(prog="python -m lmms_digits.train", description="Train the three digit readers.")
    parser.add_argument("folder", type=Path, help="where to put one artifact folder per model")
    for name, path in train(parser.parse_args().folder).items():
        print(f"{name}: {path}")


if __name__ == "__main__":
    main()
