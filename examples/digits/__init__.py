"""A small real benchmark for lmms-eval and three models that read it: handwritten digits, no download, no GPU.

The README in this folder walks through it as the pattern for a benchmark and a model of one's own. Importing this
package is cheap; scikit-learn, datasets and lmms-eval are loaded where they are needed.
"""

import hashlib
import os
import tempfile
from pathlib import Path

TASKS = ("digits_vqa", "digits_parity", "digits_sum", "digits_robust")
GROUP = "digits"

# Whatever these files say ends up in the prepared folder, so its name changes with them.
_SOURCES = ("dataset.py", "perturbations.py", "pixels.py", "tasks/*.yaml", "tasks/scoring.py")


def tasks_folder() -> Path:
    """The folder to give lmms-eval as `--include_path`; its data is built once, under `~/.cache` (XDG_CACHE_HOME)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlflow-lmms"
    folder = cache / f"digits-{_source_digest()}"
    if not folder.is_dir():
        _build(folder)
    return folder


def _build(folder: Path) -> None:
    """Build beside the final place and rename: who finds the folder finds it complete."""
    from .dataset import prepare_dataset

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".digits-") as scratch:
        ready = prepare_dataset(Path(scratch) / "ready")
        try:
            ready.rename(folder)
        except OSError:
            # Another process was faster; both built the same.
            if not folder.is_dir():
                raise


def _source_digest() -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in here.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
