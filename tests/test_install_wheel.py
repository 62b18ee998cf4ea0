"""The built wheel: everything is in it, and its commands start outside the checkout, whatever lies in the folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ("*.yaml", "*.html", "*.js", "*.css", "*.svg", "*.typed")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git tracks."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, files):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, and the packages that it needs from this one, but not the checkout."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = (venv / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A plain line adds the folder without reading its own .pth files, one of which points to the checkout.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def python(venv: Path, code: str, cwd: Path) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW_"))}
    done = subprocess.run(
        [venv / "bin" / "python", "-P", "-c", code], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_data_file_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {"mlflow_lmms": ROOT / "mlflow_lmms", "mlflow_lmms/sql": ROOT / "sql", "plugin_ui": ROOT / "plugin_ui"}
    packages |= {"worker": ROOT / "worker", "lmms_digits": ROOT / "examples" / "digits"}
    expected = {
        f"{package}/{path.relative_to(folder)}"
        for package, folder in packages.items()
        for pattern in (*DATA, "*.py")
        for path in folder.rglob(pattern)
    }
    assert len(expected) > 50
    assert expected - names == set()


def test_nothing_else_is_in_the_wheel(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "mlflow_lmms", "plugin_ui", "worker", "lmms_digits",
    }  # fmt: skip


def test_the_installed_packages_are_used_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import mlflow_lmms, plugin_ui, worker, lmms_digits\n"
    code += "for package in (mlflow_lmms, plugin_ui, worker, lmms_digits): print(package.__file__)"
    for file in python(installed, code, tmp_path).split():
        assert file.startswith(str(installed))


@pytest.mark.parametrize("command", ["--help", "config", "up --help", "worker --help", "server --dry-run"])
def test_commands_start_beside_files_that_are_called_like_ours(command: str, installed: Path, tmp_path: Path) -> None:
    for name in ("worker", "plugin_ui", "mlflow_lmms", "sql", "redis", "click"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file was imported')\n")
    code = f"from mlflow_lmms.cli.main import main; main({command.split()!r})"
    assert python(installed, code, tmp_path)


@pytest.mark.lmms_eval
def test_the_demo_runs_from_the_wheel_in_an_empty_folder_twice(installed: Path, tmp_path: Path) -> None:
    code = "from mlflow_lmms.cli.main import main; main(['demo', '--exit', '--port', '0', '--limit', '8'])"
    first = python(installed, code, tmp_path)
    assert first.count("trained and registered") == 3
    for model in ("nearest-centroid", "logistic-regression", "k-nearest-neighbours"):
        for task in ("digits_vqa", "digits_parity", "digits_sum", "digits_robust"):
            assert re.search(rf"✓ digits-{model} v1 · {task}  finished", first), f"{model} on {task}"
        assert re.search(
            rf"digits-{model} v1 +[01]\.\d\d( \[[^]]+\])?( +[01]\.\d{{3}} \[[^]]+\] #\d(–\d)?){{4}}", first
        ), model
    assert re.search(r"• digits-\S+ v1 (and digits-\S+ v1 tie|beats)", first)
    assert "submit --adapter" in first
    again = python(installed, code, tmp_path)
    assert again.count("already registered") == 3
    assert re.search(r"✓ digits-nearest-centroid v1 · digits_robust  finished", again)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow-lmms-data"]
