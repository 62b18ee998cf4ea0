"""Turns what a reader saw into what a model says: an answer to a prompt, or how likely a given answer is.

Gets the prompt and the probabilities read from each picture, and nothing else: no document, no label, no task name.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from .readers import DIGITS, Floats

Pick = Callable[[Floats], int]

# Below this the sentence names the runner-up too.
SURE = 0.8
# What a reader holds for impossible gets this instead of zero: lmms-eval cannot carry an infinite log-likelihood.
TINY = 1e-12


def likeliest(reading: Floats) -> int:
    """The likeliest digit; the smaller one of a tie."""
    return int(reading.argmax())


def sampler(temperature: float, chance: np.random.Generator) -> Pick:
    """Pick digits by chance: by their probabilities at temperature 1, evener above, closer to the likeliest below."""

    def pick(reading: Floats) -> int:
        scores = np.log(np.maximum(reading, TINY)) / temperature
        weights = np.exp(scores - scores.max())
        return int(chance.choice(DIGITS, p=weights / weights.sum()))

    return pick


def answer(prompt: str, readings: Sequence[Floats], pick: Pick = likeliest) -> str:
    """Answer in the form the prompt asks for: a digit, the sum of all digits, or a sentence about one."""
    asked = _question(prompt)
    if "sum" in asked:
        return str(sum(pick(reading) for reading in readings))
    if len(readings) != 1:
        raise ValueError(f"expected one picture (or a prompt that asks for a sum), got {len(readings)} pictures")
    reading = readings[0]
    digit = pick(reading)
    return _sentence(reading, digit) if "sentence" in asked else str(digit)


def log_likelihood(continuation: str, reading: Floats) -> float:
    """The logarithm of the probability that the picture shows what the continuation says."""
    probability = sum(float(reading[digit]) for digit in meant_digits(continuation))
    return math.log(max(probability, TINY))


def meant_digits(word: str) -> list[int]:
    """The digits that an answer such as `odd` or `7` stands for."""
    word = word.strip().lower()
    if word in ("even", "odd"):
        return list(range(word == "odd", DIGITS, 2))
    if word in map(str, range(DIGITS)):
        return [int(word)]
    raise ValueError(f"expected 'even', 'odd' or a digit as an answer to rate, got {word!r}")


def _question(prompt: str) -> str:
    """The last paragraph of a prompt: what stands before it are worked examples."""
    return prompt.rstrip().rsplit("\n\n", 1)[-1].lower()


def _sentence(reading: Floats, digit: int) -> str:
    if reading[digit] >= SURE:
        return f"The digit is {digit}."
    runner_up = likeliest(np.where(np.arange(DIGITS) == digit, -1, reading))
    return f"It looks like a {digit}, but it could be a {runner_up}."
