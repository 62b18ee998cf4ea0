"""Lets a forked process show its own lease in ``/proc/<pid>/environ``, where it would show its parent's.

The worker finds the processes of a lease by that file. The kernel reads it from the process's first variables in
memory, so the copy writes its lease there, over a value as long that was put in for that. Linux.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

LEASE_VARIABLE = "LMMS_LEASE"


@dataclass(frozen=True)
class LeasePlace:
    """The address and size of the entry that was put in to be overwritten."""

    address: int
    size: int

    @classmethod
    def find(cls) -> LeasePlace | None:
        """Look before anything sets a variable; None when it is not there."""
        entries = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
        index = 0
        while (address := entries[index]) is not None:
            text = ctypes.string_at(address)
            if text.startswith(f"{LEASE_VARIABLE}=".encode()):
                return cls(address, len(text))
            index += 1
        return None

    def fill(self, lease: str) -> str | None:
        """Write the lease; why that cannot be done, or None."""
        entry = f"{LEASE_VARIABLE}={lease}".encode()
        if len(entry) <= self.size:
            ctypes.memmove(self.address, entry.ljust(self.size, b"\0"), self.size)
            with open("/proc/self/environ", "rb") as shown:  # noqa: PTH123 - before anything of the run is imported
                if entry in shown.read().split(b"\0"):
                    return None
        return f"its lease cannot be shown in /proc ({len(entry)} bytes, room for {self.size})"
