"""Which version of the worker API a server and a box speak with each other. Pure.

Each side speaks its own version and the one before; they meet at the lower of both.
"""

from __future__ import annotations

from mlflow_lmms.errors import ConfigurationError
from mlflow_lmms.work_order import PROTOCOL

OLDEST = PROTOCOL - 1


def agreed(server: int, server_version: str, own_version: str) -> int:
    """The version that a box speaks with its server.

    Args:
        server: the server's newest.
        server_version, own_version: of the package, for the command that mends a mismatch.

    Raises:
        ConfigurationError: they have none in common; says which side to bring up to date, and how.
    """
    if server < OLDEST:
        raise ConfigurationError(
            f"the server speaks worker protocol {server}, this box {PROTOCOL} and {OLDEST}: update the server with "
            f"`{install(own_version)}`"
        )
    if server - 1 > PROTOCOL:
        raise ConfigurationError(
            f"the server speaks worker protocol {server} and {server - 1}, this box {PROTOCOL}: update the box with "
            f"`{install(server_version)}`"
        )
    return min(server, PROTOCOL)


def refusal(protocol: int, server_version: str) -> str | None:
    """Why the server gives a box of this protocol no work, with the command that helps; None: it gives it."""
    if protocol in (PROTOCOL, OLDEST):
        return None
    spoken = f"this server speaks worker protocol {PROTOCOL} and {OLDEST}, the worker {protocol}"
    return f"{spoken}: run `{install(server_version)}` on the box"


def box_warning(protocol: int, version: str, server_version: str) -> str | None:
    """What is to be done about a box that announces this version, as the server sees it; None: nothing."""
    update = f"update it with `{install(server_version)}`"
    if protocol < OLDEST:
        return f"speaks worker protocol {protocol}, older than {OLDEST}: it gets no work; {update}"
    if protocol == OLDEST:
        return f"speaks the older worker protocol {protocol}, which the next release refuses; {update}"
    if protocol > PROTOCOL + 1:
        return f"speaks worker protocol {protocol}, newer than this server's {PROTOCOL}: update the server"
    if version != server_version:
        return f"has version {version or 'unknown'}, the server {server_version}"
    return None


def install(version: str) -> str:
    """The command that brings a side to the other's version."""
    return f"pip install 'mlflow-lmms=={version}'"
