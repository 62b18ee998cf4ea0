"""Where everything is required (CI), a test that skips itself fails; elsewhere it is a skip that is listed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
TESTS = """
import pytest
def test_skips(): pytest.skip("no browser here")
@pytest.mark.skip(reason="marked")
def test_marked(): pass
@pytest.mark.xfail(strict=True)
def test_expected(): assert False
"""


@pytest.mark.parametrize(("required", "outcome"), [("", "SKIPPED SKIPPED XFAIL"), ("1", "ERROR FAILED XFAIL")])
def test_a_skip_counts_as_a_failure_where_all_is_required(required: str, outcome: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_bytes(CONFTEST.read_bytes())
    (tmp_path / "test_some.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", str(tmp_path), f"--rootdir={tmp_path}"],
        env={**os.environ, "LMMS_REQUIRE_ALL": required, "PYTHONPATH": str(CONFTEST.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    listed = sorted(re.findall(r"^(SKIPPED|FAILED|ERROR|XFAIL) ", done.stdout, re.MULTILINE))
    assert listed == outcome.split(), done.stdout
    assert done.returncode == (1 if required else 0)
    assert "no browser here" in done.stdout
