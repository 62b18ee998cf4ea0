"""Refuses requests that a page of another site makes in a browser's name, and Host names that are not ours.

A cookie, a browser's remembered password and the right to connect to loopback all travel with a request that a
foreign page caused; only what the browser says about the origin tells them apart. Pure: headers in, a reason out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443}

Headers = dict[str, str]


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """ASGI headers as text; of a header that comes twice the last one counts, as in MLflow's own middleware."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def is_loopback(address: str) -> bool:
    """Whether an address (or ``localhost``) can only be reached from this machine."""
    if address == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


@dataclass(frozen=True)
class OriginGuard:
    """The rules; both functions answer as MLflow's own settings say.

    Attributes:
        host_allowed: whether the server answers to a Host header.
        origin_allowed: whether the administrator lets pages of this other origin call the server.
    """

    host_allowed: Callable[[str], bool]
    origin_allowed: Callable[[str], bool]

    def bad_host(self, headers: Headers) -> str | None:
        """Why the Host header is refused, if it is (another site's name that points here: DNS rebinding)."""
        host = headers.get("host", "")
        if self.host_allowed(host):
            return None
        return f"this server does not answer to the host {host!r}; allow it with --allowed-hosts"

    def bad_origin(self, method: str, headers: Headers, *, guard_reads: bool = False) -> str | None:
        """Why the request is refused because of the page that made it, if it is.

        A bearer token never travels by itself, so a request that carries one was meant.
        """
        if method in _SAFE_METHODS and not guard_reads:
            return None
        if headers.get("authorization", "")[:7].lower() == "bearer ":
            return None
        origin = headers.get("origin", "")
        if origin and self.origin_allowed(origin):
            return None
        if _from_elsewhere(origin, headers):
            return f"this request comes from another site ({origin or 'unnamed'}); open the page of this server"
        return None


def _from_elsewhere(origin: str, headers: Headers) -> bool:
    # Browsers send Sec-Fetch-Site over TLS and to loopback; elsewhere Origin has to do. Programs send neither.
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    return bool(origin) and not _is_at(origin, headers.get("host", ""))


def _is_at(origin: str, host: str) -> bool:
    try:
        named = urlsplit(origin)
        ours = urlsplit(f"{named.scheme}://{host}")
        default = _DEFAULT_PORTS.get(named.scheme)
        ports = (named.port or default, ours.port or default)
    except ValueError:
        return False
    # A sandboxed page's origin is "null": it has no host, and is never ours.
    return named.hostname is not None and named.hostname == ours.hostname and ports[0] == ports[1]
