"""Why ranks that evaluate together have ended early: which one was first, and what it was.

Owns the judgement. A rank that ends takes the others along, and what they report then is only the loss of the first.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.runner.failures import tells_of_memory
from worker.runner.rank_process import RankProcess

_KERNEL_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class RankEnd:
    """What a ``task-failed`` event says, and the phase in which it happened."""

    failure: str
    message: str
    traceback: str
    phase: str

    @classmethod
    def of(
        cls,
        ranks: Sequence[RankProcess],
        first: Sequence[RankProcess],
        reports: Sequence[Mapping[str, Any]],
        phases: Mapping[int, str],
        *,
        killed: bool,
    ) -> RankEnd:
        """Judge from who had ended first, and from what ranks reported (`killed`: the kernel wanted memory)."""
        size = len(ranks)
        signalled = [rank for rank in first if rank.process.returncode < 0]
        if signalled:
            return _by_signal(signalled[0], size, phases, killed=killed)
        if reports:
            report = min(reports, key=lambda report: float(report["at"]))
            where = f"rank {report['rank']} of {size}"
            return cls(report["failure"], f"{where}: {report['message']}", report["traceback"], str(report["phase"]))
        rank = next((rank for rank in first if rank.process.returncode), ranks[0])
        failure = "out_of_memory" if _memory_ran_out(rank) else "unknown"
        message = f"rank {rank.number} of {size} ended with exit code {rank.process.returncode} without a result"
        return cls(failure, f"{message}.{_last_lines(rank)}", "", phases.get(rank.number, "import"))


def _by_signal(rank: RankProcess, size: int, phases: Mapping[int, str], *, killed: bool) -> RankEnd:
    number = -rank.process.returncode
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    message = f"rank {rank.number} of {size} was killed by signal {number} ({name})"
    failure = "worker_lost"
    if _memory_ran_out(rank) or (number == signal.SIGKILL and killed):
        failure, message = "out_of_memory", f"{message} for want of memory"
    return RankEnd(
        failure, f"{message}, and the others were stopped.{_last_lines(rank)}", "", phases.get(rank.number, "import")
    )


def _memory_ran_out(rank: RankProcess) -> bool:
    return any(tells_of_memory(line) for line in rank.last_lines)


def _last_lines(rank: RankProcess) -> str:
    return "\nIts last lines:\n" + "\n".join(rank.last_lines) if rank.last_lines else " It said nothing."


def kernel_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory since it started."""
    try:
        match = _KERNEL_KILLS.search(Path("/proc/vmstat").read_text(encoding="ascii"))
    except OSError:
        return 0
    return int(match[1]) if match else 0
