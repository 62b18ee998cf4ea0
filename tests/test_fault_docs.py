"""docs/faults.md lists exactly the fault tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMED = re.compile(r"`(?:test_\w+\.py: )?(test_\w+)` \|$", re.MULTILINE)
FAULTS = re.compile(r"@pytest\.mark\.fault\(.*\)\n(?:@.*\n)*def (test_\w+)")
ELSEWHERE = {"test_kill_9_of_any_process_leaves_nothing"}


def test_every_fault_test_stands_in_the_list_and_the_other_way_round() -> None:
    listed = set(NAMED.findall((HERE.parent / "docs" / "faults.md").read_text(encoding="utf-8")))
    files = [*HERE.glob("test_fault_*.py"), HERE / "test_network_split.py"]
    there = {name for file in files for name in FAULTS.findall(file.read_text(encoding="utf-8"))}
    assert len(there) > 20
    assert there == listed - ELSEWHERE
    assert all(f"def {name}(" in (HERE / "test_warm_start.py").read_text(encoding="utf-8") for name in ELSEWHERE)
