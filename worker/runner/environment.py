"""What this evaluation ran on: versions of the packages that can move a score.

Owns environment.json. Versions come from package metadata, since lmms-eval's own version string is unknown after a
pip install.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from worker.runner.output_files import write_json

_PACKAGES = ("lmms_eval", "torch", "transformers", "numpy")


def describe_environment(adapter_class: str) -> dict[str, str | None]:
    """Return versions, platform and the adapter's class."""
    versions = {package: _version(package) for package in _PACKAGES}
    return {
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "adapter_class": adapter_class,
    }


def write_environment(folder: Path, adapter_class: str) -> None:
    """Write environment.json."""
    write_json(folder / "environment.json", describe_environment(adapter_class))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
