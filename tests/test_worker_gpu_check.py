"""The last look before a start, whose processes are on a GPU, and how GPUs are named to CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from mlflow_lmms.errors import UnavailableError
from worker import gpu_processes
from worker.gpu_check import dirty_gpus
from worker.gpu_inventory import Gpu, GpuProblem, GpuProcess, Inventory, Trouble
from worker.gpu_pinning import visible_devices
from worker.gpu_processes import foreign_memory, lease_of, own_memory
from worker.process_tree import LEASE_VARIABLE

GIB = 1 << 30
MINE, OTHER = "run-0#7", "run-0#6"
CLEAN = Gpu(0, "GPU-a", "A", 80 * GIB, used=0, processes=())


class FakeProbe:
    """Tells one inventory after the other, the last again and again; a number is a time in which it is silent."""

    def __init__(self, *answers: Inventory | float) -> None:
        self._answers = list(answers)
        self.asked = 0

    def inventory(self) -> Inventory:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Inventory):
            return answer
        time.sleep(answer)
        return Inventory()


def used_by(*processes: tuple[int, int], gpu: Gpu = CLEAN) -> Gpu:
    told = tuple(GpuProcess(pid, memory) for pid, memory in processes)
    return replace(gpu, used=sum(memory for _, memory in processes), processes=told)


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, int]]:
    """A process of a lease, its grandchild that called setsid with an environment of its own, and one of another."""
    clean = {key: value for key, value in os.environ.items() if key != LEASE_VARIABLE}
    inner = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], env={{}})"
    mine = subprocess.Popen(
        [sys.executable, "-c", outer], env={**clean, LEASE_VARIABLE: MINE}, stdout=subprocess.PIPE, text=True
    )
    other = subprocess.Popen(["sleep", "600"], env={**clean, LEASE_VARIABLE: OTHER})
    assert mine.stdout is not None
    inner_pid = int(mine.stdout.readline())
    yield {"mine": mine.pid, "inner": inner_pid, "other": other.pid}
    os.kill(inner_pid, 9)
    for process in (mine, other):
        process.kill()
        process.wait()
    mine.stdout.close()


def test_a_process_is_known_by_its_own_mark_or_a_forefather_s(processes: dict[str, int]) -> None:
    assert lease_of(processes["mine"]) == MINE
    assert lease_of(processes["inner"]) == MINE
    assert lease_of(processes["other"]) == OTHER
    assert lease_of(1) is None
    assert lease_of(2**22 + 1) is None


def look(*gpus: Gpu, troubles: Sequence[Trouble] = ()) -> Inventory:
    return Inventory(gpus, tuple(troubles))


def test_a_clean_gpu_is_looked_at_once(processes: dict[str, int]) -> None:
    probe = FakeProbe(look(used_by((processes["mine"], 9 * GIB), (1, 400 << 20))))
    assert dirty_gpus(["GPU-a"], MINE, probe=probe) == {}
    assert probe.asked == 1
    assert dirty_gpus([], MINE, probe=probe) == {}


def test_others_have_to_be_there_twice(processes: dict[str, int]) -> None:
    dirty = look(used_by((processes["other"], 2 * GIB)))
    found = dirty_gpus(["GPU-a"], MINE, probe=FakeProbe(dirty), apart_s=0.01)
    assert found == {"GPU-a": f"processes {processes['other']} use 2048 MiB of it"}
    assert dirty_gpus(["GPU-a"], MINE, probe=FakeProbe(dirty, look(CLEAN)), apart_s=0.01) == {}


def test_a_lost_gpu_and_a_silent_driver_are_told() -> None:
    lost = look(troubles=[Trouble(GpuProblem.LOST, "GPU 0 is left out: GPU is lost", 0)])
    found = dirty_gpus(["GPU-a"], MINE, probe=FakeProbe(lost), apart_s=0.01)
    assert found == {"GPU-a": "GPU 0 is left out: GPU is lost"}
    silent = dirty_gpus(["GPU-a"], MINE, probe=FakeProbe(5.0), answer_s=0.05, apart_s=0.01)
    assert "does not answer" in silent["GPU-a"]


def test_on_a_shared_gpu_it_is_the_room_that_counts(processes: dict[str, int]) -> None:
    probe = FakeProbe(look(used_by((processes["other"], 50 * GIB))))
    assert dirty_gpus(["GPU-a"], MINE, memory=30 * GIB, probe=probe) == {}
    assert "30720 MiB of it are free" in dirty_gpus(["GPU-a"], MINE, memory=31 * GIB, probe=probe, apart_s=0)["GPU-a"]


def test_memory_is_told_apart_by_process(processes: dict[str, int]) -> None:
    gpu = used_by((processes["inner"], 3 * GIB), (1, GIB))
    ours = lambda pid: lease_of(pid) == MINE  # noqa: E731
    assert foreign_memory(gpu, ours, held=0) == GIB
    assert own_memory(gpu, ours) == 3 * GIB
    unknown = replace(gpu, processes=(GpuProcess(processes["mine"], 3 * GIB), GpuProcess(1, None)))
    assert foreign_memory(unknown, ours, held=0) == GIB
    assert own_memory(replace(gpu, processes=None), ours) == 4 * GIB


def test_in_a_container_what_is_beyond_our_leases_is_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_processes, "_MACHINE_NAMESPACE", "pid:[1]")
    gpu = used_by((2**22 + 5, 7 * GIB))
    nobody = lambda pid: False  # noqa: E731
    assert foreign_memory(gpu, nobody, held=0) == 7 * GIB
    assert foreign_memory(gpu, nobody, held=5 * GIB) == 2 * GIB
    assert foreign_memory(gpu, nobody, held=80 * GIB) == 0
    assert foreign_memory(replace(gpu, processes=()), nobody, held=0) == 7 * GIB
    assert own_memory(gpu, nobody) == 7 * GIB


TWO = Inventory((Gpu(1, "GPU-b", "A", 1), Gpu(4, "GPU-e", "A", 1)))


def test_gpus_are_pinned_by_uuid_or_by_cuda_s_own_count() -> None:
    assert visible_devices(["GPU-e", "GPU-b"]) == {"CUDA_VISIBLE_DEVICES": "GPU-e,GPU-b"}
    assert visible_devices([]) == visible_devices([], "index") == {"CUDA_VISIBLE_DEVICES": ""}
    indices = visible_devices(["GPU-e", "GPU-b"], "index", TWO)
    assert indices == {"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    slices = Inventory((*TWO.gpus, Gpu(5, "MIG-f", "A 1g", 1, is_slice=True)))
    assert visible_devices(["MIG-f"], "index", slices) == {"CUDA_VISIBLE_DEVICES": "MIG-f"}


def test_a_gpu_without_an_index_is_told() -> None:
    gone = Inventory(TWO.gpus[:1], (Trouble(GpuProblem.LOST, "GPU 4 is left out", 4),))
    with pytest.raises(UnavailableError, match="GPU-e now; GPU 4 is left out"):
        visible_devices(["GPU-e"], "index", gone)
