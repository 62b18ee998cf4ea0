"""What a failed fetch means, in words: from the class of the error, whichever release of the Hub's library raised it.

The classes moved between releases, and the network errors below them changed library; their names did not.
"""

from __future__ import annotations

import errno

from worker.runner.fetch_events import FetchError

_TOKEN_TOLD = "is the HF_TOKEN of this box allowed to read it?"  # noqa: S105 - words, not a secret
_TOKEN_ASKED = "if it is private, let the run ask for the secret HF_TOKEN"  # noqa: S105 - words, not a secret
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "TimeoutException", "ProxyError")
_LONGEST = 500


def explain(error: BaseException, name: str, *, token: bool) -> str:
    """Why `name` could not be fetched, and what to do."""
    if isinstance(error, FetchError):
        return str(error)
    kinds = {kind.__name__ for chained in _chain(error) for kind in type(chained).__mro__}
    if _is_full(error):
        return f"the disk became full while {name} was fetched: make room, or use a larger disk"
    if "GatedRepoError" in kinds:
        told = _TOKEN_TOLD if token else "let the run ask for the secret HF_TOKEN"
        return f"{name} is gated: its terms must be accepted on the Hub, and {told}"
    if "RevisionNotFoundError" in kinds:
        return f"{name} has no such revision on the Hub: correct it"
    if kinds & {"LocalTokenNotFoundError"}:
        return f"{name} is asked for with a sign-in to the Hub: let the run ask for the secret HF_TOKEN"
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return f"the Hub has no {name} for us: correct the name; {_TOKEN_TOLD if token else _TOKEN_ASKED}"
    if kinds & {*_UNREACHABLE, "LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return f"the Hub cannot be reached for {name}: check this machine's network (HF_ENDPOINT, proxies)"
    return f"{name}: {type(error).__name__}: {str(error).strip()[:_LONGEST] or 'no reason given'}"


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (following := found[-1].__cause__ or found[-1].__context__) is not None and following not in found:
        found.append(following)
    return found


def _is_full(error: BaseException) -> bool:
    return any(
        isinstance(chained, OSError) and chained.errno in (errno.ENOSPC, errno.EDQUOT) for chained in _chain(error)
    )
