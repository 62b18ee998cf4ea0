"""What differs between runs as pandas data frames, for notebooks: documents, and settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_lmms.client import Client
from mlflow_lmms.report.records import FLIP_COLUMNS, flip_records, setting_records

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 500


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
    pages = [flip_records(page) for page in _pages(*asked, most, kinds=kinds, search=search)]
    return pd.DataFrame([row for page in pages for row in page.rows], columns=list(FLIP_COLUMNS))


def settings_diff(*run_ids: str, everything: bool = False, client: Client | None = None) -> pd.DataFrame:
    """Settings in which runs differ, one row each, a column for each run; with `everything` the equal ones too."""
    import pandas as pd

    found = setting_records((client or Client()).config_diff(*run_ids, everything=everything))
    return pd.DataFrame(found.rows, columns=["section", "name", *dict.fromkeys(run_ids)])


def _pages(
    client: Client, baseline: str, candidate: str, task: str, most: int, **narrowed: Any
) -> Iterator[dict[str, Any]]:
    for offset in range(0, most, _AT_ONCE):
        limit = min(_AT_ONCE, most - offset)
        page = client.flips(baseline, candidate, task, offset=offset, limit=limit, **narrowed)
        yield page
        if offset + limit >= page["total"]:
            return
