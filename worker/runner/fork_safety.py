"""Whether a process that has imported lmms-eval may be copied by forking, and for which runs its copies are good.

Owns the watch over the imports: what they started, opened, made and asked the environment for. A copy shares all of
that with the next one, which two processes started afresh do not. It knows nothing of how copies are asked for.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Mapping
from multiprocessing.synchronize import SemLock
from pathlib import Path
from types import TracebackType
from typing import Any

#: Threads that wait for nothing that a forked copy could miss: the allocator of pyarrow sees to itself after a fork.
_HARMLESS_THREADS = {"jemalloc_bg_thd"}
_HARMLESS_FILES = {"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}
_MOST_MEMORY = 6 << 30
_CUDA_DRIVER = "/libcuda.so"


class ImportWatch:
    """Watches what is imported inside ``with``; afterwards it judges."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self._asked_in_vain: set[str] = set()
        self._made: list[str] = []
        self._open = _open_files()
        self._files: dict[str, int] = {}
        self._look_up: Any = None
        self._watching = False
        self._threads_of_numexpr = 0

    def __enter__(self) -> ImportWatch:
        kind: Any = type(os.environ)
        look_up = self._look_up = kind.__getitem__
        asked_in_vain = self._asked_in_vain

        def note(environ: Any, name: str) -> Any:
            try:
                return look_up(environ, name)
            except KeyError:
                asked_in_vain.add(name)
                raise

        kind.__getitem__ = note
        self._watching = True
        sys.addaudithook(self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._watching = False
        type(os.environ).__getitem__ = self._look_up  # type: ignore[method-assign]
        self._files = _imported_files()
        self._rest()

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # An audit hook stays for good; this one must cost nothing once the imports are done.
        if self._watching and event in ("tempfile.mkdtemp", "tempfile.mkstemp"):
            self._made.append(os.fspath(arguments[0]))

    def _rest(self) -> None:
        """Let thread pools that no copy would have end; they come back when `wake` is called, or by themselves."""
        numexpr = sys.modules.get("numexpr")
        if numexpr is not None:
            self._threads_of_numexpr = numexpr.set_num_threads(1)
        if (pid := os.fork()) == 0:  # OpenBLAS ends its threads before a fork
            os._exit(0)
        os.waitpid(pid, 0)

    def wake(self) -> None:
        """In a copy: put back what `_rest` took away, and what the copies must not have in common."""
        if self._threads_of_numexpr:
            sys.modules["numexpr"].set_num_threads(self._threads_of_numexpr)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()  # Python's own generator sees to itself

    def unsafe(self) -> str | None:
        """Why this process must not be copied; None when it may."""
        threads = sorted(_threads() - _HARMLESS_THREADS)
        if threads:
            return f"threads are running in it ({', '.join(threads)})"
        if _CUDA_DRIVER in Path("/proc/self/maps").read_text():
            return "CUDA was touched by an import"
        if _has_children():
            return "an import has started a process"
        if opened := sorted(_open_files() - self._open - _HARMLESS_FILES):
            return f"an import has left files or connections open ({', '.join(opened)})"
        if left := [path for path in self._made if Path(path).exists()]:
            return f"an import has made a temporary file of its process's own ({left[0]})"
        if any(isinstance(item, SemLock) for item in gc.get_objects()):
            return "an import has made a lock that all copies would share"
        if (memory := _resident_memory()) > _MOST_MEMORY:
            return f"it takes {memory >> 20} MiB of memory, more than {_MOST_MEMORY >> 20}"
        return None

    def unfit(self, environ: Mapping[str, str], own: Iterable[str]) -> str | None:
        """Why a run with these variables must not be a copy, `own` being those that each run has for itself."""
        own = set(own)
        shared = {name: value for name, value in environ.items() if name not in own and name in self.environ}
        expected = {name: value for name, value in self.environ.items() if name not in own}
        if shared != expected:
            differing = sorted(name for name in expected if shared.get(name) != expected[name])
            return f"its variables differ from those of the imports ({', '.join(differing)})"
        if asked := sorted(self._asked_in_vain & set(environ) - set(expected)):
            return f"an import has looked for a variable that only the run has ({', '.join(asked)})"
        return None

    def stale(self) -> str | None:
        """Why the imports are out of date; None when they are not."""
        now = _modified(self._files)
        changed = [path for path, modified in self._files.items() if now[path] != modified]
        return f"{len(changed)} imported files or package folders have changed ({changed[0]})" if changed else None


def _imported_files() -> dict[str, int]:
    modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    # A folder of packages changes when one is installed, upgraded or removed.
    return _modified([*(file for file in modules if file), *(folder for folder in sys.path if folder)])


def _modified(paths: Iterable[str]) -> dict[str, int]:
    found = {}
    for path in paths:
        try:
            found[path] = os.stat(path).st_mtime_ns  # noqa: PTH116 - thousands of them, at each run
        except OSError:
            found[path] = 0
    return found


def _threads() -> set[str]:
    """Names of the threads beside the first one."""
    names = set()
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            try:
                names.add((task / "comm").read_text().strip())
            except OSError:  # it ended meanwhile
                continue
    return names


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _open_files() -> set[str]:
    """What the open descriptors lead to, those of the standard streams aside."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        if int(entry.name) > 2:
            try:
                found.add(str(entry.readlink()))
            except OSError:  # the one that lists the folder
                continue
    return {target for target in found if not target.startswith("/proc/")}


def _resident_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
