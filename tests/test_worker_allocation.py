"""What a batch system gives a worker: GPUs by CUDA's rules, a name, an end, limits of processors and memory."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from mlflow_lmms.errors import ConfigurationError
from worker.allocation import allocation_of, visible_gpus
from worker.box_end import end_of, give_back_at
from worker.cgroup_limits import cpu_limit, memory_limit
from worker.gpu_inventory import Gpu, GpuProblem, Inventory, Trouble

#: The first GPU is not for us, the third fell off the bus; the fourth is split.
SOME = Inventory(
    (
        Gpu(1, "GPU-bbbb", "A", 1),
        Gpu(3, "MIG-d1", "A 1g", 1, is_slice=True, parent="GPU-dddd"),
        Gpu(3, "MIG-d2", "A 1g", 1, is_slice=True, parent="GPU-dddd"),
        Gpu(4, "GPU-eeee", "A", 1),
    ),
    (Trouble(GpuProblem.NO_PERMISSION, "GPU 0 is left out", 0), Trouble(GpuProblem.LOST, "GPU 2 is left out", 2)),
)
NOON = datetime(2026, 3, 1, 12, 0).timestamp()


@pytest.mark.parametrize(
    ("words", "uuids"),
    [
        ("0", ["GPU-bbbb"]),
        ("2,0", ["GPU-eeee", "GPU-bbbb"]),
        ("1", ["MIG-d1", "MIG-d2"]),
        ("GPU-ee, mig-D2", ["GPU-eeee", "MIG-d2"]),
        ("0,-1,2", ["GPU-bbbb"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
    ],
)
def test_the_gpus_of_cuda_s_variable_are_counted_as_cuda_does(words: str, uuids: list[str]) -> None:
    assert [gpu.uuid for gpu in visible_gpus(words, SOME)] == uuids


@pytest.mark.parametrize("words", ["3", "GPU-cccc"])
def test_one_that_is_not_there_is_named_with_what_is(words: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{words}.*GPU-bbbb.*GPU 2 is left out.*--gpus"):
        visible_gpus(words, SOME)


def test_outside_a_batch_system_a_worker_takes_the_machine() -> None:
    found = allocation_of({"CUDA_VISIBLE_DEVICES": "1"})
    assert (found.system, found.visible, found.until, found.box("host")) == (None, "1", None, "host")
    assert not found.forced_end
    assert allocation_of({}).visible is None


def test_each_slurm_task_is_a_box_of_its_own() -> None:
    environ = {
        "SLURM_JOB_ID": "812",
        "SLURM_JOB_PARTITION": "gpu",
        "SLURM_JOB_END_TIME": "1800000000",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    alone = allocation_of({**environ, "SLURM_NTASKS": "1"})
    assert (alone.box("node7"), alone.visible, alone.until) == ("node7-slurm812", "0,1", 1.8e9)
    assert (alone.labels, alone.forced_end) == (("slurm", "partition=gpu"), True)
    tasks = [allocation_of({**environ, "SLURM_NTASKS": "2", "SLURM_PROCID": str(n)}).box("node7") for n in range(2)]
    assert tasks == ["node7-slurm812-0", "node7-slurm812-1"]


def test_a_slurm_job_without_gpus_touches_none() -> None:
    assert allocation_of({"SLURM_JOB_ID": "1"}).visible == "none"
    assert allocation_of({"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "4"}).visible is None


@pytest.mark.parametrize(
    ("nvidia", "visible"),
    [("GPU-aa,GPU-bb", "GPU-aa,GPU-bb"), ("MIG-aa", "MIG-aa"), ("none", "none"), ("all", None), ("0,1", None)],
)
def test_in_kubernetes_the_container_s_devices_count(nvidia: str, visible: str | None) -> None:
    found = allocation_of({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NVIDIA_VISIBLE_DEVICES": nvidia})
    assert (found.system, found.visible, found.box("pod-1")) == ("kubernetes", visible, "pod-1")
    assert (found.labels, found.forced_end) == (("kubernetes",), True)


@pytest.mark.parametrize(
    ("text", "after_s"),
    [
        ("90m", 5400),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("45s", 45),
        ("2026-03-01T18:00", 6 * 3600),
        ("18:00", 6 * 3600),
        ("11:00", 23 * 3600),
    ],
)
def test_an_end_is_a_time_or_a_duration(text: str, after_s: float) -> None:
    assert end_of(text, NOON) - NOON == after_s


@pytest.mark.parametrize("text", ["soon", "", "1h 30m", "25:00", "2026-03-01T11:00"])
def test_an_end_that_is_none_or_over_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--until"):
        end_of(text, NOON)


def test_work_is_given_back_two_minutes_before_the_end_or_a_tenth() -> None:
    assert give_back_at(NOON + 3600, NOON) == NOON + 3480
    assert give_back_at(NOON + 100, NOON) == NOON + 90


def test_limits_of_control_groups_of_both_versions_count(tmp_path: Path) -> None:
    own, groups = tmp_path / "cgroup", tmp_path / "fs"
    (groups / "pod" / "container").mkdir(parents=True)
    own.write_text("0::/pod/container\n")
    processors = float(len(os.sched_getaffinity(0)))
    assert (cpu_limit(groups, own), memory_limit(groups, own)) == (processors, None)
    (groups / "pod" / "container" / "memory.max").write_text("max\n")
    (groups / "pod" / "memory.max").write_text("8589934592\n")
    (groups / "pod" / "cpu.max").write_text("50000 100000\n")
    assert (cpu_limit(groups, own), memory_limit(groups, own)) == (0.5, 8 << 30)

    own.write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")  # in a container that mounts its own group
    for name, value in (("memory/memory.limit_in_bytes", 4 << 30), ("cpu/cpu.cfs_quota_us", 25000)):
        (groups / name).parent.mkdir(exist_ok=True)
        (groups / name).write_text(f"{value}\n")
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert (cpu_limit(groups, own), memory_limit(groups, own)) == (0.25, 4 << 30)
    (groups / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert (cpu_limit(groups, own), memory_limit(groups, own)) == (processors, None)
