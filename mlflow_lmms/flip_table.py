"""What became of each document from one result to another: which were won, which were lost, which only differ.

Owns how two results' stored tables are laid side by side: by columns, so that a million documents take a few dozen
megabytes, and the texts are never in memory as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlflow_lmms.errors import UnreadableOutputError
from mlflow_lmms.flip_kinds import FlipKind
from mlflow_lmms.samples import SamplesTable
from mlflow_lmms.score_vectors import ScoreVector, align

_DOC_ID = "doc_id"
_RESPONSES = "responses"


_KINDS = tuple(FlipKind)


@dataclass(frozen=True)
class FlipTable:
    """The documents that have a score in both results, in the order of the first one's samples.

    Attributes:
        kinds: places in `FlipKind`.
        first, second: rows of the two samples tables.
        documents: how many rows each result has.
    """

    kinds: NDArray[np.uint8]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    documents: tuple[int, int]

    @property
    def counts(self) -> dict[FlipKind, int]:
        """How many documents there are of each kind."""
        found = np.bincount(self.kinds, minlength=len(_KINDS))
        return {kind: int(found[at]) for at, kind in enumerate(_KINDS)}

    def of_kinds(self, kinds: frozenset[FlipKind]) -> NDArray[np.int64]:
        """The places of documents of these kinds."""
        return np.flatnonzero(np.isin(self.kinds, [at for at, kind in enumerate(_KINDS) if kind in kinds]))


@dataclass(frozen=True)
class StoredResult:
    """One side: its per-sample scores, its two tables, and the filter whose answers were scored."""

    vector: ScoreVector
    samples: Path
    scores: Path
    filter: str


def flip_table(first: StoredResult, second: StoredResult, *, higher_is_better: bool) -> FlipTable:
    """Lay two results of one metric side by side.

    Raises:
        UnreadableOutputError: a table cannot be read, or the two tables of a result do not belong together.
    """
    at_first, at_second = align(first.vector, second.vector)
    rows = _sample_rows(first)[at_first], _sample_rows(second)[at_second]
    order = np.argsort(rows[0], kind="stable")
    one, two = rows[0][order], rows[1][order]
    before, after = first.vector.values[at_first][order], second.vector.values[at_second][order]
    other_answer = _answers(first)[one] != _answers(second)[two]
    return FlipTable(
        _kinds_of(before, after, other_answer, higher_is_better),
        one.astype(np.int32),
        two.astype(np.int32),
        (len(first.vector.values), len(second.vector.values)),
    )


def _kinds_of(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    other_answer: NDArray[np.bool_],
    higher_is_better: bool,
) -> NDArray[np.uint8]:
    was, is_ = (before >= 1, after >= 1) if higher_is_better else (before <= 0, after <= 0)
    gain = after - before if higher_is_better else before - after
    conditions = {
        FlipKind.RIGHT_TO_WRONG: was & ~is_,
        FlipKind.WRONG_TO_RIGHT: ~was & is_,
        FlipKind.WORSE: gain < 0,
        FlipKind.BETTER: gain > 0,
        FlipKind.CHANGED: other_answer,
    }
    found = np.select(list(conditions.values()), [_KINDS.index(kind) for kind in conditions], _KINDS.index("same"))
    return found.astype(np.uint8)


def _sample_rows(result: StoredResult) -> NDArray[np.int64]:
    """For each row of the scores table its row in the samples table; documents that stand twice in their order."""
    scored, sampled = _doc_ids(result.scores), _doc_ids(result.samples)
    by_score, by_sample = np.argsort(scored, kind="stable"), np.argsort(sampled, kind="stable")
    if len(scored) != len(sampled) or bool((scored[by_score] != sampled[by_sample]).any()):
        raise UnreadableOutputError(
            f"{result.scores.name} and {result.samples.name} do not hold the same documents: score the task again"
        )
    rows = np.empty(len(scored), dtype=np.int64)
    rows[by_score] = by_sample
    return rows


def _doc_ids(file: Path) -> NDArray[np.int64]:
    try:
        column = pq.read_table(file, columns=[_DOC_ID], memory_map=True)[_DOC_ID]
        ids: NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), -1).to_numpy()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UnreadableOutputError(f"{file.name} does not tell which documents it holds: {error}") from None
    return ids


def _answers(result: StoredResult) -> NDArray[np.uint64]:
    """A hash of each sample's answer: the filtered one, which was scored, else the response itself."""
    with SamplesTable(result.samples) as table:
        filtered = f"filtered:{result.filter}"
        column = filtered if filtered in table.names else _RESPONSES
        hashes = [_hashed(group[column]) for group in table.groups([column])]
    return np.concatenate([*hashes, np.zeros(0, dtype=np.uint64)])


def _hashed(column: Any) -> NDArray[np.uint64]:
    from pandas.util import hash_array  # most of a second that other programs need not wait for

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.binary_join(column, "\x00")
    texts = pc.fill_null(pc.cast(column, pa.string()), "").to_numpy(zero_copy_only=False)
    found: NDArray[np.uint64] = hash_array(texts, categorize=False)
    return found
