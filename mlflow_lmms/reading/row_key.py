"""The weak key of a sample: for results whose documents themselves are not at hand.

Pure. A document's content hash is the strong key and is made where the document is.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def row_key(doc_id: Any, input_text: str, target: str) -> str:
    """Return the SHA-256 of document id, input and target."""
    text = _ENCODER.encode([doc_id, input_text, target])
    # A lone surrogate, which a model or a file may hold, has no UTF-8 form.
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()
