"""Turns what a reader saw into what a model says: an answer to a prompt, or how likely a given answer is.

Gets the prompt and the probabilities read from each picture, and nothing else: no document, no label, no task name.
"""

import math
from collections.abc import Sequence

import numpy as np

from .readers import DIGITS, Floats

# Below this the sentence names the runner-up too.
SURE = 0.8


def question(prompt: str) -> str:
    """The last paragraph of a prompt: what stands before it are worked examples."""
    return prompt.rstrip().rsplit("\n\n", 1)[-1].lower()


def answer(prompt: str, readings: Sequence[Floats]) -> str:
    """Answer in the form the prompt asks for: a digit, the sum of all digits, or a sentence about one."""
    asked = question(prompt)
    if "sum" in asked:
        return str(sum(int(reading.argmax()) for reading in readings))
    (reading,) = readings
    first, second = (int(digit) for digit in np.argsort(-reading, kind="stable")[:2])
    if "sentence" not in asked:
        return str(first)
    if reading[first] >= SURE:
        return f"The digit is {first}."
    return f"It looks like a {first}, but it could be a {second}."


def log_likelihood(continuation: str, reading: Floats) -> float:
    """The logarithm of the probability that the picture shows what the continuation says."""
    probability = sum(float(reading[digit]) for digit in meant_digits(continuation))
    return math.log(max(probability, 1e-12))


def meant_digits(word: str) -> list[int]:
    """The digits that an answer such as `odd` or `7` stands for."""
    word = word.strip().lower()
    if word in ("even", "odd"):
        return list(range(word == "odd", DIGITS, 2))
    if word.isdigit() and int(word) < DIGITS:
        return [int(word)]
    raise ValueError(f"expected 'even', 'odd' or a digit as an answer to rate, got {word!r}")
