"""What the task files point at with `!function scoring.NAME`: the pictures of a document, and the score of an answer.

lmms-eval loads this file by its path, as a module without a package: no relative imports here.
"""

import ast
from typing import Any

from lmms_digits.perturbations import perturb
from PIL import Image

Document = dict[str, Any]

PARITIES = ("even", "odd")


def picture(doc: Document) -> list[Image.Image]:
    """The one picture of a document."""
    return [doc["image"]]


def pair(doc: Document) -> list[Image.Image]:
    """The two pictures of a sum."""
    return [doc["left_image"], doc["right_image"]]


def spoiled_picture(doc: Document) -> list[Image.Image]:
    """The picture as the document's recipe spoils it, made when the model asks for it."""
    return [perturb(doc["image"], doc["perturbation"], doc["severity"], doc["seed"])]


def parity_scores(doc: Document, results: list[str]) -> dict[str, float]:
    """Right when the likelier of the two words is the right one.

    lmms-eval 0.7.3 turns each (log-likelihood, greedy) pair into its text before it comes here, which its built-in
    multiple-choice scoring does not expect.
    """
    likelihoods = [float(ast.literal_eval(result)[0]) for result in results]
    said = PARITIES[likelihoods.index(max(likelihoods))]
    return {"acc": float(said == doc["parity"])}
