"""Brings together what an earlier attempt has kept of a task's answers, whatever its number of processes was.

Owns nothing but that: a rank looks into its own files and the common ones, and documents go to other ranks when the
number of ranks changes. It also finds what a run on a network disk has copied there from another box. (lmms-eval
0.7.3.)
"""

from __future__ import annotations

from pathlib import Path

from lmms_eval.caching.response_cache import ResponseCache

from worker.runner.answers import collect_rank_files


def collect_answers(folder: Path) -> None:
    """Merge the files of all ranks into those that every rank reads; call it while none is at work."""
    collect_rank_files(folder)
    ranks = sorted(folder.glob("runs/*/rank_*.db"))
    if ranks:
        ResponseCache.merge_shards([str(file) for file in ranks], str(folder / "cache.db"))
