"""The planner over simulated days: the simulation counts for itself that no GPU is given twice and all jobs end."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def schedule() -> ModuleType:
    """``benchmarks/schedule.py`` as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / "schedule.py"
    spec = importlib.util.spec_from_file_location("schedule_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("scenario", "most"), [("load 0.95", 1.12), ("load 0.9, a box lost every hour", 1.25)])
def test_the_fleet_is_kept_full(schedule: ModuleType, scenario: str, most: float) -> None:
    assert 1.0 <= schedule.simulate(scenario, "planner", 1).over_bound <= most


def test_a_large_job_waits_at_most_the_drain_and_the_longest_run(schedule: ModuleType) -> None:
    assert schedule.starvation("planner", 1) <= 20 + 25
    assert schedule.starvation("greedy", 1) > 1000
