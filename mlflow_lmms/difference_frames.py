"""What differs between runs as pandas data frames, for notebooks: documents, and settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_lmms.client import Client

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 500
_FLIP = (
    "kind",
    "document",
    "input",
    "target",
    "baseline_answer",
    "candidate_answer",
    "baseline_score",
    "candidate_score",
)


def flipped(
    baseline: str,
    candidate: str,
    task: str,
    *,
    kinds: Sequence[str] = (),
    search: str = "",
    most: int = 10_000,
    client: Client | None = None,
) -> pd.DataFrame:
    """The documents whose answer changed, one row each, in the baseline's order; `kinds` as in `Client.flips`.

    Args:
        most: how many are fetched.
    """
    import pandas as pd  # a second that other programs need not wait for

    asked = (client or Client(), baseline, candidate, task)
    return pd.DataFrame(_flips(*asked, most, kinds=kinds, search=search), columns=list(_FLIP))


def settings_diff(*run_ids: str, everything: bool = False, client: Client | None = None) -> pd.DataFrame:
    """Settings in which runs differ, one row each, a column for each run; with `everything` the equal ones too."""
    import pandas as pd

    found = (client or Client()).config_diff(*run_ids, everything=everything)
    rows = [{"section": s["section"], "name": s["name"], **s["values"]} for s in found["settings"]]
    return pd.DataFrame(rows, columns=["section", "name", *run_ids])


def _flips(
    client: Client, baseline: str, candidate: str, task: str, most: int, **narrowed: Any
) -> Iterator[tuple[Any, ...]]:
    for offset in range(0, most, _AT_ONCE):
        limit = min(_AT_ONCE, most - offset)
        page = client.flips(baseline, candidate, task, offset=offset, limit=limit, **narrowed)
        column = f"{page['metric']}:{page['filter']}"
        for flip in page["flips"]:
            one, two = flip["baseline"], flip["candidate"]
            answers = (_answer(one, page["filter"]), _answer(two, page["filter"]))
            document = one["doc_hash"] or one["row_key"]
            scores = (one["scores"].get(column), two["scores"].get(column))
            yield flip["kind"], document, one["input"], one["target"], *answers, *scores
        if offset + limit >= page["total"]:
            return


def _answer(sample: dict[str, Any], filter_name: str) -> str:
    return str(sample["filtered"].get(filter_name) or "\n".join(sample["responses"]))
