"""Under which Python and with which variables the runner is started: an allow-list, the GPUs, the secrets asked for.

The runner runs other people's code (models, tasks), so it gets none of the worker's own credentials.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlflow_lmms
import worker
from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.settings import Settings
from worker.gpu_pinning import DeviceFormat, visible_devices
from worker.process_tree import LEASE_VARIABLE

_PLAIN = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|LD_LIBRARY_PATH|VIRTUAL_ENV|XDG_CACHE_HOME|SSL_CERT_FILE"
    r"|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|API_TYPE|MODEL_VERSION|OPENAI_API_URL|OPENAI_BASE_URL"
    r"|AZURE_ENDPOINT|AZURE_OPENAI_ENDPOINT|AZURE_OPENAI_API_VERSION"
)
_FAMILIES = re.compile(
    r"(LC|HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|DATASETS|DIFFUSERS|TORCH|PYTORCH|TRITON|CUDA|NCCL|NVIDIA|OMP|MKL"
    r"|OPENBLAS|NUMEXPR|VLLM|SGLANG|RAY|DECORD)_\w+|(http|https|ftp|all|no)_proxy",
    re.IGNORECASE,
)
_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|CREDENTIALS?)$")
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def resolve_secrets(names: Iterable[str], settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The values of the secrets that a run asks for by name: from this box's folder, else from its environment.

    Raises:
        InvalidRequestError: this box does not offer one; with what to do.
    """
    found = {}
    for name in names:
        file = settings.secrets_folder / name if settings.secrets_folder is not None else None
        if not _SECRET_NAME.fullmatch(name):
            raise InvalidRequestError(f"a secret's name is letters, digits and '_', got {name!r}")
        if file is not None and file.is_file():
            found[name] = file.read_text(encoding="utf-8").rstrip("\r\n")
        elif name in settings.secrets_offered and environ.get(name):
            found[name] = environ[name]
        else:
            folder = settings.secrets_folder or "a folder named by MLFLOW_LMMS_SECRETS_FOLDER"
            raise InvalidRequestError(
                f"box {settings.box} has no secret {name}: put it into a file of that name in {folder}, or set the "
                f"environment variable {name} for its worker"
                + ("" if name in settings.secrets_offered else " and add it to MLFLOW_LMMS_SECRETS_OFFERED")
            )
    return found


def runner_environ(
    environ: Mapping[str, str],
    *,
    mark: str,
    gpus: Iterable[str],
    secrets: Mapping[str, str],
    device_format: DeviceFormat = "uuid",
) -> dict[str, str]:
    """The runner's whole environment.

    Raises:
        UnavailableError: the driver does not tell the index of a GPU, where that is asked for.
    """
    allowed = {
        name: value
        for name, value in environ.items()
        if (_PLAIN.fullmatch(name) or _FAMILIES.fullmatch(name)) and not _SECRET.search(name)
    }
    return {
        **allowed,
        **secrets,
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        **visible_devices(tuple(gpus), device_format),
        LEASE_VARIABLE: mark,
    }


def python_of(environment: str | None, settings: Settings) -> str:
    """The Python of an evaluation environment; the worker's own when none is asked for.

    Raises:
        InvalidRequestError: this box does not offer it.
    """
    if environment is None:
        return sys.executable
    python = settings.environments.get(environment)
    if python is None or not os.access(python, os.X_OK):
        offered = ", ".join(sorted(settings.environments)) or "none"
        wrong = "has no" if python is None else f"cannot run {python} of the"
        raise InvalidRequestError(
            f"box {settings.box} {wrong} evaluation environment {environment!r} (it offers {offered}): start its "
            f"worker with --environment {environment}=/path/to/bin/python"
        )
    return python


def runner_path(folder: Path) -> Path:
    """A folder with the runner and the rules of reading alone, for a Python that this project is not installed in."""
    (folder / "worker").mkdir(parents=True, exist_ok=True)
    (folder / "mlflow_lmms").mkdir(exist_ok=True)
    (folder / "worker" / "__init__.py").touch()
    (folder / "mlflow_lmms" / "__init__.py").touch()
    _link(folder / "worker" / "runner", Path(worker.__file__).parent / "runner")
    _link(folder / "mlflow_lmms" / "reading", Path(mlflow_lmms.__file__).parent / "reading")
    return folder


def _link(link: Path, source: Path) -> None:
    if not link.is_symlink() or link.readlink() != source:
        fresh = link.with_name(f"{link.name}.{os.getpid()}")
        fresh.symlink_to(source)
        fresh.replace(link)
