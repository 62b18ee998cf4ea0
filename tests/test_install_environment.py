"""`.ci/make_environment.py`: what it refuses and how, that it says things first, resumes, and does no work twice."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "make_environment.py"
Captured = pytest.CaptureFixture[str]

# Stands for the environment's Python: notes what it is asked for, and fails or hangs when told to.
PIP = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
echo "Collecting torch==2.9"
echo "  Downloading torch-2.9-cp311.whl (800.1 MB)"
[ -e "$here/hang" ] && { touch "$here/hanging"; sleep 60; }
[ -e "$here/fail" ] && { echo "ERROR: No space left on device"; exit 1; }
echo "Installing collected packages: a, b, c"
exit 0
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[ModuleType]:
    """The script as a module of a project of its own."""
    project = tmp_path / "project"
    (project / ".ci").mkdir(parents=True)
    shutil.copy(SCRIPT, project / ".ci")
    (project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    spec = importlib.util.spec_from_file_location("make_environment", project / ".ci" / SCRIPT.name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


@pytest.fixture
def folder(tmp_path: Path, script: ModuleType) -> Path:
    """An environment as `python -m venv` leaves it, with a pip that only takes notes."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib" / f"python{script.version()}").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    for name in ("python", "pip"):
        (venv / "bin" / name).write_text(PIP)
        (venv / "bin" / name).chmod(0o755)
    return venv


def calls(folder: Path) -> list[str]:
    path = folder / "bin" / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_it_says_what_comes_before_it_downloads(folder: Path, script: ModuleType, capsys: Captured) -> None:
    script.main(folder, {"local"})
    said = capsys.readouterr().out.splitlines()
    assert "3 to 4 GB" in said[0]
    assert "PyTorch" in said[0]
    assert "minutes" in said[0]
    assert said[-1] == "The environment is ready."
    backend, project = calls(folder)
    assert "setuptools" in backend
    assert project.endswith(f"--editable {script.ROOT}[local]")


def test_the_second_time_nothing_is_done(folder: Path, script: ModuleType, capsys: Captured) -> None:
    script.main(folder, {"dev", "local"})
    capsys.readouterr()
    before = calls(folder)
    script.main(folder, {"dev", "local"})
    script.main(folder, {"local"})
    assert calls(folder) == before
    assert capsys.readouterr().out == ""


def test_further_extras_are_added_and_earlier_ones_kept(folder: Path, script: ModuleType) -> None:
    script.main(folder, {"local"})
    script.main(folder, {"dev", "local"})
    assert calls(folder)[-1].endswith("[dev,local]")
    (script.ROOT / "pyproject.toml").write_text("[project]\nname = 'y'\n")
    script.main(folder, {"local"})
    assert calls(folder)[-1].endswith("[dev,local]")


def test_another_checkout_takes_the_packages_over(
    folder: Path, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.main(folder, {"local"})
    moved = tmp_path / "moved"
    script.ROOT.rename(moved)
    monkeypatch.setattr(script, "ROOT", moved)
    script.main(folder, {"local"})
    assert "--no-deps" in calls(folder)[-1]
    assert calls(folder)[-1].endswith(f"{moved}[local]")


def test_a_failure_shows_its_end_and_the_next_run_goes_on(folder: Path, script: ModuleType) -> None:
    (folder / "bin" / "fail").touch()
    with pytest.raises(script.SetupError, match=r"(?s)No space left on device.*goes on from here"):
        script.main(folder, {"local"})
    assert not (folder / script.STAMP).exists()
    (folder / "bin" / "fail").unlink()
    script.main(folder, {"local"})
    assert json.loads((folder / script.STAMP).read_text())["extras"] == ["local"]


def test_an_interrupted_run_leaves_no_stamp_and_resumes(folder: Path, script: ModuleType) -> None:
    (folder / "bin" / "hang").touch()
    program = subprocess.Popen(
        [sys.executable, str(script.__file__), str(folder), "local"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (folder / "bin" / "hanging").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 1
    assert errors == "\ninterrupted; the next start goes on from here\n"
    assert not (folder / script.STAMP).exists()
    (folder / "bin" / "hang").unlink()
    script.main(folder, {"local"})
    assert (folder / script.STAMP).exists()


def test_one_progress_line_names_the_package_and_the_time(script: ModuleType) -> None:
    assert script.describe("Collecting torch==2.9") == "collecting torch==2.9"
    downloading = script.describe("  Downloading https://host/a/torch-2.9.whl (800.1 MB)")
    assert downloading == "downloading torch-2.9.whl (800.1 MB)"
    assert script.describe("Installing collected packages: a, b, c").startswith("installing 3 packages")
    assert script.describe("  Using cached x") == ""


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_missing_module_is_named_with_its_remedy(
    module: str, tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else real(name))
    with pytest.raises(script.SetupError, match=rf"module {module} is missing(?s:.*)apt install python3\.\d+-venv"):
        script.main(tmp_path / "new", {"local"})
    assert not (tmp_path / "new").exists()


def test_too_little_disk_is_said_before_anything_is_downloaded(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=3 * 1024**3)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(script.SetupError, match=r"3\.0 GB of free space and 8 GB are needed.*VENV="):
        script.main(tmp_path / "new", {"local"})


def test_an_unfitting_python_is_replaced_by_one_on_path(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(script.SetupError, match=r"is 3\.9 and no other(?s:.*)apt install python3.11"):
        script.fitting_python()
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")  # a version manager's, for a version that is not active
    works = tmp_path / "python3.12"
    works.write_text("#!/bin/sh\nexit 0\n")
    for path in (shim, works):
        path.chmod(0o755)
    assert script.fitting_python() == str(works)


def test_an_environment_of_another_python_is_emptied(
    folder: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "lib" / f"python{script.version()}").rename(folder / "lib" / "python3.8")
    made: list[list[str]] = []
    monkeypatch.setattr(script, "run", lambda command, log, doing: made.append(command))
    script.install(folder, ["local"], with_dependencies=True)
    assert made[0][1:] == ["-m", "venv", "--clear", str(folder)]


def test_it_can_be_read_by_an_old_python() -> None:
    """An old Python has to get as far as the message; nothing newer than 3.7 may stand in the script."""
    import ast

    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
