"""The number by which a scores table tells which documents belong together, such as the questions about one video.

Pure. It depends on the cluster's name alone, so two runs give the same documents the same number.
"""

from __future__ import annotations

import hashlib
from typing import Any


def cluster_id(cluster: Any) -> int | None:
    """The number of a cluster, 64 bits with sign; None for a document that stands alone."""
    if cluster is None:
        return None
    digest = hashlib.sha256(str(cluster).encode("utf-8", errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
