"""This process among those that evaluate together: one alone, or one of several ranks with a share of the documents.

Owns the meeting of the ranks: the process group as lmms-eval's own command makes it, what they agree on, and bringing
the requests of all to the first. lmms-eval splits documents and gathers scores itself. (lmms-eval 0.7.3.)
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lmms_eval.api.instance import Instance

from worker.runner.failures import TaskFailure
from worker.runner.ranks import leased_devices

#: lmms-eval's own command waits so long for the slowest rank.
_PATIENCE = datetime.timedelta(seconds=60_000)
_PADDING = "__padding_only__"
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class World:
    """The ranks that evaluate together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, processes: int, environment: Mapping[str, str] = os.environ) -> World:
        """Meet the other ranks, of which there must be as many as the request asks for."""
        if processes == 1:
            return cls()
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        _check_devices(int(environment.get("LOCAL_RANK", "0")), environment)
        Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])
        group = _distributed()  # accelerate itself counts one process where there is no accelerator
        met = group.get_world_size() if group.is_initialized() else 1
        if met != processes:
            raise TaskFailure(
                "bad_request",
                f"expected {processes} processes to evaluate together, {met} met; the packages accelerate and torch "
                "of the evaluation environment do not go together",
            )
        return cls(group.get_rank(), met)

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def leads(self) -> bool:
        """Whether this rank has the results."""
        return self.rank == 0

    @property
    def backend(self) -> str:
        """What lmms-eval calls the way in which ranks meet."""
        return "torchrun" if self.several else "accelerate"

    def share(self, documents: range) -> range:
        """This rank's documents."""
        return documents[self.rank :: self.size]

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.several:
            _distributed().barrier()

    @contextlib.contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Let the first rank go through alone, so that what it leaves in a cache is there for the others."""
        if not self.leads:
            self.wait()
        try:
            yield
        finally:
            if self.leads:
                self.wait()

    def agree(self, names: Iterable[str]) -> dict[str, list[int]]:
        """All names that a rank has, in the first one's order, with the ranks that lack them."""
        own = list(names)
        if not self.several:
            return {name: [] for name in own}
        everybody: list[list[str]] = [[] for _ in range(self.size)]
        _distributed().all_gather_object(everybody, own)
        known = dict.fromkeys(name for names in everybody for name in names)
        return {name: [rank for rank, has in enumerate(everybody) if name not in has] for name in known}

    def gather_requests(self, task: Any) -> None:
        """Bring the answered requests of all ranks into the first one's task; their pictures stay where they are."""
        if not self.several:
            return
        own = [request for request in task.instances if not (request.metadata or {}).get(_PADDING)]
        everybody: list[Any] | None = [None] * self.size if self.leads else None
        _distributed().gather_object(None if self.leads else [_light(request) for request in own], everybody, dst=0)
        if everybody is not None:
            others = [request for requests in everybody[1:] for request in requests]
            task._instances = sorted([*own, *others], key=lambda request: (request.doc_id, request.idx))


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed


def _light(request: Any) -> Instance:
    """A copy that can be sent: what is asked in words, without the task's functions."""
    arguments = tuple(argument for argument in request.args if isinstance(argument, _PLAIN))
    light = Instance(request.request_type, arguments, request.idx, {**request.metadata})
    light.resps, light.filtered_resps = request.resps, request.filtered_resps
    light.raw_filtered_resps, light.token_counts = request.raw_filtered_resps, request.token_counts
    return light


def _check_devices(local_rank: int, environment: Mapping[str, str]) -> None:
    leased = leased_devices(environment)
    if not leased:
        return
    import torch

    if (seen := torch.cuda.device_count()) <= local_rank:
        raise TaskFailure(
            "model_load",
            f"expected {len(leased)} GPUs, torch sees {seen}; check the driver and torch in the evaluation "
            "environment",
        )
