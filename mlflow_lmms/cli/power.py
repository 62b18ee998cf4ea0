"""`mlflow-lmms power`: how many documents a question takes, before anything is run."""

from __future__ import annotations

import click

from mlflow_lmms.analysis.power import achieved_power, binary_deviation, documents_needed, smallest_detectable
from mlflow_lmms.cli.output import format_option, print_json, print_table, wants_json
from mlflow_lmms.errors import InvalidRequestError


@click.command()
@click.option("--difference", type=float, help="The difference of two models that is to be found, as 0.02.")
@click.option("--documents", type=click.IntRange(2), help="The documents that there are.")
@click.option("--deviation", type=click.FloatRange(0, min_open=True), help="Of the differences of single documents.")
@click.option(
    "--disagreement",
    type=click.FloatRange(0, 1, min_open=True),
    help="For right or wrong: the share of documents that one of the models alone gets right.  [default: 0.2]",
)
@click.option("--margin", type=click.FloatRange(0), help="Plan a gate: the loss that is acceptable.")
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, show_default=True)
@click.option("--power", type=click.FloatRange(0.5, 1, max_open=True), default=0.8, show_default=True)
@format_option
def power(
    difference: float | None,
    documents: int | None,
    deviation: float | None,
    disagreement: float | None,
    margin: float | None,
    alpha: float,
    power: float,
) -> None:
    """Plan an evaluation: documents for a difference, or the difference that so many documents show.

    Give --difference to learn how many documents it takes, --documents to learn what they can show, both to learn how
    likely the difference is found. With --margin it is a gate that is planned: a candidate that is as good as the
    baseline (plus --difference, if it is given) is to pass.
    """
    if difference is None and documents is None and margin is None:
        raise InvalidRequestError("give --difference, --documents or --margin: there is nothing to plan otherwise")
    if deviation is not None and disagreement is not None:
        raise InvalidRequestError("--deviation and --disagreement say the same: give one of them")
    spread = deviation if deviation is not None else _spread(difference or 0.0, disagreement or 0.2)
    told = _plan(difference, documents, margin, spread, alpha, power)
    if wants_json():
        print_json(told)
    else:
        print_table(("", ""), [(name.replace("_", " "), value) for name, value in told.items()])


def _spread(difference: float, disagreement: float) -> float:
    if abs(difference) > disagreement:
        raise InvalidRequestError(
            f"models that differ on {disagreement:.0%} of the documents cannot differ by {abs(difference):g}: give a "
            "larger --disagreement"
        )
    return binary_deviation((disagreement + abs(difference)) / 2, (disagreement - abs(difference)) / 2)


def _plan(
    difference: float | None, documents: int | None, margin: float | None, spread: float, alpha: float, power: float
) -> dict[str, float | int | None]:
    told: dict[str, float | int | None] = {"deviation": spread, "alpha": alpha, "power": power}
    if margin is not None:
        room = margin + (difference or 0.0)
        told["documents_needed_to_pass"] = (
            documents_needed(room, spread, alpha / 2, power, sides=1) if room > 0 else None
        )
        if documents is not None:
            told["smallest_margin"] = smallest_detectable(spread, documents, alpha, power) - (difference or 0.0)
        return told
    if difference is not None:
        told["documents_needed"] = documents_needed(difference, spread, alpha, power)
    if documents is not None:
        told["smallest_difference"] = smallest_detectable(spread, documents, alpha, power)
    if difference is not None and documents is not None:
        told["power"] = achieved_power(abs(difference), spread, documents, alpha)
    return told
