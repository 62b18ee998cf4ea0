"""One line of a samples file, in the shape that our tables have.

Pure. Owns how lmms-eval (0.3 to 0.7) and lm-eval (0.4) write a sample: which fields there are, and how answers are
nested in them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_lmms.importing.json_files import plain
from mlflow_lmms.reading.metric_key import finite_number

_LOG_LIKELIHOODS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")
_MOST_COLUMNS = 100
_OBJECT = re.compile(r"<[\w.]+ [^<>]*at 0x[0-9a-fA-F]+>|<PIL\.")
TOKENS = ("input_tokens", "output_tokens", "reasoning_tokens")
#: A document id beyond this is no row number of a benchmark.
MOST_DOCUMENTS = 50_000_000


class SampleRow(NamedTuple):
    """One sample; texts are whole and not yet scrubbed. `filter` is set where the file names it."""

    doc_id: int
    filter: str | None
    input: str
    target: str
    responses: list[str]
    filtered: str
    tokens: tuple[int | None, int | None, int | None]
    columns: dict[str, Any]
    content: str | None = None


def read_sample(row: Mapping[str, Any], output_type: str, *, whole: bool = False) -> SampleRow:
    """Read one line; `whole`: its document is there with nothing left out, and gets its content hash.

    Raises:
        ValueError: what a sample must have is not there.
    """
    nested = output_type in _LOG_LIKELIHOODS
    filtered = row.get("filtered_resps")
    responses = row.get("resps", filtered)
    name = row.get("filter")
    return SampleRow(
        doc_id=_doc_id(row.get("doc_id")),
        filter=name if isinstance(name, str) else None,
        input=_input(row),
        target=as_text(row.get("target")),
        responses=_answers(responses, nested),
        filtered=_filtered(filtered),
        tokens=_tokens(row.get("token_counts")),
        columns=_columns(row.get("doc")),
        content=document_hash(row.get("doc")) if whole else None,
    )


def as_text(value: Any) -> str:
    """Return text as it is, None as nothing, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(plain(value), ensure_ascii=False)


def _doc_id(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected a whole number as doc_id, got {str(value)[:40]!r}")
    if not 0 <= value < MOST_DOCUMENTS:
        raise ValueError(f"doc_id {str(value)[:40]} is no row of a benchmark")
    return value


def _input(row: Mapping[str, Any]) -> str:
    found = row.get("input")
    if found is not None:
        return as_text(found)
    arguments = row.get("arguments")
    if isinstance(arguments, dict):  # lm-eval: {"gen_args_0": {"arg_0": the prompt, …}, …}
        first = arguments.get("gen_args_0")
        return as_text(first.get("arg_0")) if isinstance(first, dict) else ""
    first = arguments[0] if isinstance(arguments, list) and arguments else None
    if isinstance(first, list) and first:
        first = first[0]
    return first if isinstance(first, str) else ""


def _answers(responses: Any, nested: bool) -> list[str]:
    """Every answer to every request of the document; requests and repeats are lists in lists."""
    if not isinstance(responses, list):
        return [as_text(responses)]
    answers: list[str] = []
    for request in responses:
        if not isinstance(request, list):
            answers.append(as_text(request))
        elif nested and not any(isinstance(item, list) for item in request):
            answers.append(as_text(request))  # one [log-likelihood, greedy] pair
        else:
            answers.extend(as_text(item) for item in request)
    return answers


def _filtered(value: Any) -> str:
    return as_text(value[0] if isinstance(value, list) and len(value) == 1 else value)


def _tokens(value: Any) -> tuple[int | None, int | None, int | None]:
    if not isinstance(value, list):
        return None, None, None
    counts = [item for item in value if isinstance(item, dict)]
    return _total(counts, TOKENS[0]), _total(counts, TOKENS[1]), _total(counts, TOKENS[2])


def _total(counts: Sequence[Mapping[str, Any]], field: str) -> int | None:
    numbers = [number for item in counts if (number := finite_number(item.get(field))) is not None]
    total = int(sum(numbers))
    return total if numbers and abs(total) < 2**63 else None


def _columns(document: Any) -> dict[str, Any]:
    """The document's scalars, where the file holds the document."""
    if not isinstance(document, dict):
        return {}
    first = list(document.items())[:_MOST_COLUMNS]
    return {name: value for name, value in first if isinstance(value, str) or finite_number(value) is not None}


def document_hash(document: Any) -> str | None:
    """The content hash of a whole document, as the runner makes it; None where a part of it was left out as text."""
    if not isinstance(document, dict):
        return None
    try:
        text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return None
    if _OBJECT.search(text):
        return None
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
