"""Makes the project's virtual environment with nothing but Python's standard library (3.7 or newer to be read).

Run by the Makefile: `python3 .ci/make_environment.py FOLDER EXTRA[,EXTRA]`. It says beforehand what will be
downloaded, shows one progress line, and goes on where an interrupted run stopped: pip keeps what it has downloaded,
and the stamp that says "done" is written last.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent.parent
STAMP = "mlflow-lmms.json"
LOG = "mlflow-lmms-install.log"
SIZE = "downloads 3 to 4 GB and needs 8 GB of disk (lmms-eval brings PyTorch); some 5 minutes on a fast connection"
NEEDED_BYTES = 8 * 1024**3
BACKEND = "setuptools>=77"
QUIET_EVERY_S = 30
ELSEWHERE = "choose another place: make VENV=/path demo"
OTHER_PYTHON = "make PYTHON=/path/to/python3.12 demo"


class SetupError(Exception):
    """The environment cannot be made; the message says how to mend it."""


def main(folder: Path, extras: set[str]) -> None:
    """Make or complete the environment in `folder`."""
    python = fitting_python()
    if python != sys.executable:
        os.execv(python, [python, __file__, str(folder), ",".join(sorted(extras))])  # noqa: S606 - no shell
    present = read_stamp(folder)
    every_extra = sorted(extras.union(present.get("extras", [])))
    wanted = {
        "project": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "python": version(),
        "extras": every_extra,
        "root": str(ROOT),
    }
    if present == wanted:
        return
    if not (folder / "bin" / "python").exists():
        check_machine(folder)
    same_packages = {**present, "root": str(ROOT)} == wanted
    if not same_packages:
        say(f"Setting up {folder} with Python {version()}: {SIZE}.")
        say("Ctrl-C is safe: the next start goes on from there.")
    install(folder, every_extra, with_dependencies=not same_packages)
    new = folder / f"{STAMP}.new"
    new.write_text(json.dumps(wanted), encoding="utf-8")
    new.replace(folder / STAMP)
    say("The environment is ready.")


def version() -> str:
    """This Python's version as people name it."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def fitting_python() -> str:
    """A Python of a version that the project runs on: this one if it fits, else the newest on PATH."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        path = shutil.which(f"python3.{minor}")
        # A version manager's shim may stand on PATH and still refuse to run.
        if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    raise SetupError(
        f"Python 3.11, 3.12 or 3.13 is needed; {sys.executable} is {version()} and no other is on PATH.\n"
        "  Debian, Ubuntu: apt install python3.11 python3.11-venv (or 3.12, 3.13); Fedora: dnf install python3.12\n"
        f"  Or name one: {OTHER_PYTHON}"
    )


def check_machine(folder: Path) -> None:
    """Refuse at once where the set-up cannot succeed."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"Python's module {module} is missing, so that no virtual environment can be made.\n"
                f"  Debian, Ubuntu: apt install python{version()}-venv (or python3-venv)\n"
                f"  Or use another Python: {OTHER_PYTHON}"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{folder} cannot be made ({error}); {ELSEWHERE}") from None
    free = shutil.disk_usage(str(folder)).free
    if free < NEEDED_BYTES:
        raise SetupError(f"{folder} has {free / 1024**3:.1f} GB of free space and 8 GB are needed; {ELSEWHERE}")


def install(folder: Path, extras: list[str], with_dependencies: bool) -> None:
    """Make the environment if it is not there yet and install the project into it."""
    log = folder / LOG
    # Also completes one whose making was interrupted, and empties one of another Python.
    if not (folder / "bin" / "pip").exists() or not (folder / "lib" / f"python{version()}").exists():
        clear = ["--clear"] if (folder / "pyvenv.cfg").exists() else []
        run([sys.executable, "-m", "venv", *clear, str(folder)], log, "making the virtual environment")
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    if with_dependencies:
        run([*pip, BACKEND], log, "installing")
    only = [] if with_dependencies else ["--no-deps"]
    run([*pip, "--no-build-isolation", *only, "--editable", f"{ROOT}[{','.join(extras)}]"], log, "installing")


def run(command: list[str], log: Path, doing: str) -> None:
    """Run a command with one progress line; its whole output goes to the log."""
    lines: queue.Queue[str | None] = queue.Queue()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, cwd=str(log.parent)
    )
    reader = threading.Thread(target=pump, args=(process, log, lines))
    reader.start()
    try:
        tail = show_progress(lines, doing)
    finally:  # after Ctrl-C too, which the terminal sends to the command as well
        process.wait()
        reader.join()
    if process.returncode != 0:
        last = "\n  ".join(tail)
        raise SetupError(
            f"`{' '.join(command[:4])} …` failed. Its last lines (all of them: {log}):\n  {last}\n"
            "Check the connection and the disk, then run the same command again: it goes on from here."
        )


def pump(process: Any, log: Path, lines: Any) -> None:
    """Copy a process's output into the log and the queue; None ends it."""
    with process.stdout as output, log.open("a", encoding="utf-8", errors="replace") as file:
        for line in output:
            file.write(line)
            file.flush()
            lines.put(line.rstrip())
    lines.put(None)


def show_progress(lines: Any, doing: str) -> list[str]:
    """Show what happens until the output ends; return its last lines."""
    began = shown = time.monotonic()
    tail: list[str] = []
    packages = 0
    while True:
        try:
            line = lines.get(timeout=1)
            if line is None:
                break
            tail = [*tail, line][-12:]
            packages += line.startswith("Collecting ")
            doing = describe(line) or doing
        except queue.Empty:
            pass
        seconds = int(time.monotonic() - began)
        text = f"[{seconds // 60}:{seconds % 60:02d}] {packages} packages · {doing}"
        if sys.stdout.isatty():
            overwrite(text)
        elif time.monotonic() - shown >= QUIET_EVERY_S:
            shown = time.monotonic()
            say(text)
    if sys.stdout.isatty():
        overwrite("")
    return tail


def overwrite(text: str) -> None:
    """Put `text` in place of the terminal's current line."""
    width = shutil.get_terminal_size().columns - 1
    sys.stdout.write(f"\r{text[:width].ljust(width)}\r")
    sys.stdout.flush()


def describe(line: str) -> str:
    """What a line of pip's output says for people; empty when it says nothing new."""
    words = line.split()
    if len(words) > 1 and words[0] in ("Collecting", "Downloading"):
        return " ".join([words[0].lower(), words[1].rsplit("/", 1)[-1], *words[2:4]])
    if line.startswith("Installing collected packages"):
        return f"installing {line.count(',') + 1} packages (a minute or two)"
    return ""


def read_stamp(folder: Path) -> dict[str, Any]:
    """What the last complete run left; empty when there was none."""
    try:
        found = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def say(text: str) -> None:
    """Print a line for people."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).absolute(), set(sys.argv[2].split(",")))
    except SetupError as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the next start goes on from here")
