"""Looks at each part of a set-up and says what is wrong and how to mend it. This file: the machine itself.

The server, queue, database and workers are looked at in `doctor_services`. Nothing is changed by looking.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from mlflow_lmms.catalogue import read_catalogue
from mlflow_lmms.errors import LmmsError
from mlflow_lmms.server_command import secrets_folder
from mlflow_lmms.settings import Settings

OLDEST, NEWEST = (3, 11), (3, 13)
LMMS_EVAL = "0.7.3"
_GB = 1024**3
_IMPORT_TIMEOUT_S = 180
_ASK_VERSION = "import lmms_eval, importlib.metadata as m; print(m.version('lmms-eval'))"

Status = Literal["ok", "warning", "problem"]


class Finding(NamedTuple):
    """What was seen of one part; `remedy` is what to do about it."""

    part: str
    status: Status
    message: str
    remedy: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def check_python(_settings: Settings) -> Iterator[Finding]:
    """The Python that runs this."""
    found = sys.version_info[:2]
    words = f"Python {found[0]}.{found[1]} at {sys.executable}"
    if OLDEST <= found <= NEWEST:
        yield Finding("python", "ok", words)
    else:
        yield Finding("python", "problem", f"{words}; 3.11 to 3.13 are supported", "install with another Python")


def check_packages(_settings: Settings) -> Iterator[Finding]:
    """The packages that ours requires, in the versions that it requires."""
    wrong = []
    for line in requires("mlflow-lmms") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} is {installed}, wanted {requirement.specifier}")
    if wrong:
        yield Finding("packages", "problem", "; ".join(wrong), "pip install --upgrade mlflow-lmms")
    else:
        yield Finding("packages", "ok", f"mlflow-lmms {version('mlflow-lmms')}, mlflow {version('mlflow')}")


def check_data_folder(settings: Settings) -> Iterator[Finding]:
    """The data folder: writable, with space left."""
    folder = settings.data_folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "make it writable, or set MLFLOW_LMMS_DATA_FOLDER to another folder"
        yield Finding("data folder", "problem", f"{existing} cannot be written: {error.strerror}", remedy)
        return
    yield Finding("data folder", "ok", f"{folder}{'' if existing == folder else ' (made on first use)'}")
    free = shutil.disk_usage(existing).free / _GB
    remedy = "free some space, or set MLFLOW_LMMS_DATA_FOLDER to a folder on another disk"
    status: Status = "problem" if free < 1 else "warning" if free < 5 else "ok"
    yield Finding("disk", status, f"{free:.1f} GB free for {folder}", "" if status == "ok" else remedy)


def check_task_folders(settings: Settings) -> Iterator[Finding]:
    """The benchmarks that can be asked for."""
    try:
        catalogue = read_catalogue(settings.task_folders)
    except LmmsError as error:
        yield Finding("tasks", "problem", error.message, "correct MLFLOW_LMMS_TASK_FOLDERS")
        return
    own = sum(task.own for task in catalogue.tasks.values())
    if settings.task_folders and not own:
        folders = ", ".join(map(str, settings.task_folders))
        yield Finding("tasks", "problem", f"no task in {folders}", "put lmms-eval task YAML files there")
        return
    yield Finding("tasks", "ok", f"{len(catalogue.tasks)} tasks, {own} of them your own")


def check_lmms_eval(settings: Settings) -> Iterator[Finding]:
    """lmms-eval in this Python and in each evaluation environment: there, importable, of the checked version."""
    pythons = {"lmms-eval": sys.executable} if not settings.environments else {}
    pythons |= {f"lmms-eval ({name})": path for name, path in settings.environments.items()}
    for part, python in pythons.items():
        install = f"{python} -m pip install lmms-eval=={LMMS_EVAL}"
        if python == sys.executable and find_spec("lmms_eval") is None:
            message = "not installed: this machine runs no evaluations, which is fine for a server"
            yield Finding(part, "warning", message, "pip install 'mlflow-lmms[local]'")
            continue
        try:
            done = subprocess.run(
                [python, "-P", "-c", _ASK_VERSION],
                capture_output=True,
                text=True,
                timeout=_IMPORT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Finding(part, "problem", f"{python} cannot be run: {error}", "correct MLFLOW_LMMS_ENVIRONMENTS")
            continue
        found = done.stdout.strip().splitlines()[-1:] or [""]
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            yield Finding(part, "problem", f"cannot be imported: {last}", f"{install} --force-reinstall")
        elif found[0] != LMMS_EVAL:
            yield Finding(part, "warning", f"{found[0]}; results were checked with {LMMS_EVAL}", install)
        else:
            yield Finding(part, "ok", f"{found[0]} in {python}")


def check_gpus(_settings: Settings) -> Iterator[Finding]:
    """The NVIDIA driver, where there is one."""
    if find_spec("pynvml") is None:
        remedy = "pip install 'mlflow-lmms[worker]'"
        yield Finding("gpus", "warning", "nvidia-ml-py is not installed: no GPU can be used", remedy)
        return
    import pynvml

    try:
        pynvml.nvmlInit()
        count, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        present = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
        if present:
            yield Finding("gpus", "problem", f"the NVIDIA driver does not answer: {error}", "run nvidia-smi; reboot")
        else:
            yield Finding("gpus", "ok", "no NVIDIA driver: evaluations run on CPU slots")
        return
    yield Finding("gpus", "ok", f"{count} GPU{'' if count == 1 else 's'}, driver {driver}")


def check_secrets(settings: Settings) -> Iterator[Finding]:
    """Files with secrets: for their owner's eyes alone."""
    files = [settings.data_folder / "server_secret"]
    for folder in (secrets_folder(settings.data_folder), settings.secrets_folder):
        if folder is not None and folder.is_dir():
            files += sorted(path for path in folder.iterdir() if path.is_file())
    if settings.secrets_folder is not None and not settings.secrets_folder.is_dir():
        message = f"{settings.secrets_folder} is no folder"
        yield Finding("secrets", "problem", message, "make it, or correct MLFLOW_LMMS_SECRETS_FOLDER")
    there = [path for path in files if path.exists()]
    if readable := [str(path) for path in there if path.stat().st_mode & 0o077]:
        message = f"other users may read {', '.join(readable)}"
        yield Finding("secrets", "problem", message, f"chmod 600 {' '.join(readable)}")
    else:
        offered = [name for name in settings.secrets_offered if os.environ.get(name)]
        words = f"{len(there)} files, for this user alone; {len(offered)} offered by the environment"
        yield Finding("secrets", "ok", words)


MACHINE: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_data_folder,
    check_secrets,
    check_task_folders,
    check_lmms_eval,
    check_gpus,
)
