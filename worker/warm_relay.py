"""Stands in for a runner that is started warm: hands everything it has over to a fork server, then waits for the end.

Runs as a script by path (``python -I -S``), where the runner would have been started: under the worker's keeper, with
the run's variables, folder and descriptors. Until the copy has said that it is ready and was told to go, nothing is
lost: whatever goes wrong, this process becomes the cold runner. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

EVENT_DESCRIPTOR = "LMMS_EVENT_FD"
#: A server that has not answered by then is killed.
_PATIENCE_S = 5.0
_LOST = 128 + signal.SIGKILL


def main(name: str, keeper: str, *cold: str) -> int:
    """Return the exit status of the run; does not return when it is started cold."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.settimeout(_PATIENCE_S)
        reason = _hand_over(server, name, json.loads(keeper))
        if reason is None:
            return _wait(server)
    sys.stderr.write(f"started cold: {reason}\n")
    sys.stderr.flush()
    os.execvp(cold[0], cold)  # noqa: S606 - an argument list, no shell


def _hand_over(server: socket.socket, name: str, keeper: Sequence[str]) -> str | None:
    """Let a copy of the server become the run; why that was not possible, or None when it waits for the word."""
    process = 0
    try:
        server.connect(f"\0{name}")
        process, user, _ = struct.unpack("3i", server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():  # anybody may take a name that has become free
            return "the fork server belongs to another user"
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        events = int(os.environ[EVENT_DESCRIPTOR])
        message = json.dumps(_description(keeper)).encode() + b"\n"
        with suppress(BrokenPipeError):  # it has refused already, and says why
            sent = socket.send_fds(server, [message], [0, 1, 2, events, folder])
            server.sendall(message[sent:])
        os.close(folder)
        answer = server.recv(1 << 12).decode(errors="replace").strip()
    except TimeoutError:
        _kill(process)
        return f"the fork server did not answer within {_PATIENCE_S:.0f} s and was killed"
    except OSError as error:
        return f"the fork server is not there or not ready ({error.strerror})"
    if answer == "ready":
        return None
    return f"the fork server refused: {answer.removeprefix('no: ')}" if answer else "the fork server has ended"


def _description(keeper: Sequence[str]) -> dict[str, object]:
    umask = os.umask(0)
    os.umask(umask)
    numbers = signal.valid_signals()
    return {
        "environ": dict(os.environ),
        "keeper": list(keeper),
        "umask": umask,
        "ignored": [int(number) for number in numbers if signal.getsignal(number) is signal.SIG_IGN],
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    }


def _wait(server: socket.socket) -> int:
    """Let the copy go, and wait; a request to stop is passed on by closing the way there."""

    def stop(*_: object) -> None:
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    server.settimeout(None)
    try:
        server.sendall(b"go\n")
        answer = server.recv(16)
    except OSError:
        return _LOST
    return int(answer) if answer.strip().isdigit() else _LOST


def _kill(process: int) -> None:
    with suppress(OSError):
        if b"fork_server" in Path(f"/proc/{process}/cmdline").read_bytes():
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
