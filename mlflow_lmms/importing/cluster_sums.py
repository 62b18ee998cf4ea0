"""The standard error of a mean over documents that come in clusters, such as the questions about one video. Pure.

Owns its bound: beyond so many clusters nothing is told, because each takes a little memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MOST_CLUSTERS = 200_000


@dataclass
class ClusterSums:
    """Count and total of the scores of each cluster; a document without one is a cluster of its own."""

    sums: dict[str, tuple[int, float]] = field(default_factory=dict)
    alone: int = 0
    alone_squares: float = 0.0
    alone_total: float = 0.0
    too_many: bool = False

    def add(self, cluster: str | None, score: float) -> None:
        """Take one document's score in."""
        if cluster is None:
            self.alone += 1
            self.alone_total += score
            self.alone_squares += score * score
            return
        n, total = self.sums.get(cluster, (0, 0.0))
        if n == 0 and len(self.sums) >= MOST_CLUSTERS:
            self.too_many = True
            return
        self.sums[cluster] = n + 1, total + score

    def stderr(self) -> tuple[int, float | None] | None:
        """The number of clusters and the standard error (None below two); None where there is nothing to tell.

        Liang & Zeger (1986), "Longitudinal data analysis using generalized linear models", Biometrika 73, with the
        correction G/(G − 1) for G clusters.
        """
        if self.too_many or not self.sums:
            return None
        count = len(self.sums) + self.alone
        n = self.alone + sum(own for own, _ in self.sums.values())
        mean = (self.alone_total + sum(total for _, total in self.sums.values())) / n
        if count < 2:
            return count, None
        squares = sum((total - own * mean) ** 2 for own, total in self.sums.values())
        squares += max(0.0, self.alone_squares - 2 * mean * self.alone_total + self.alone * mean * mean)
        return count, math.sqrt(squares * count / (count - 1)) / n
