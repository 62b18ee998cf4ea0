"""All settings of the project in one class, and where each value comes from.

Order: environment (``MLFLOW_LMMS_<NAME>``), then the TOML file named by ``MLFLOW_LMMS_CONFIG``, then the default.
Entry points load the settings once and pass them on; nothing else reads the environment.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlflow_lmms.errors import ConfigurationError

PREFIX = "MLFLOW_LMMS_"
CONFIG_FILE = "MLFLOW_LMMS_CONFIG"
_TRACKING_URI = "MLFLOW_TRACKING_URI"
_PASSWORD = re.compile(r"(://[^:/?#@]*:)[^/?#]*(?=@)|([?&]password=)[^&#]*")


class SettingValue(NamedTuple):
    """One setting as ``mlflow-lmms config`` shows it; passwords inside URLs are masked."""

    name: str
    value: str
    source: str
    meaning: str


class Settings(BaseModel):
    """Every setting; each field's description is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_folder: Path = Field(
        Path("mlflow-lmms-data"), description="folder with the database, artifacts, queue and caches of `up`"
    )
    server_url: str = Field(
        "http://127.0.0.1:5000", description=f"address of the MLflow server; {_TRACKING_URI} counts too"
    )
    redis_url: str | None = Field(
        None, description="Redis or Valkey of the queue; empty: the embedded one in the data folder"
    )
    database_url: str | None = Field(None, description="our tables; empty: beside or inside MLflow's own database")
    auth: Literal["none", "basic"] = Field(
        "none", description="`basic`: MLflow's users and permissions; `none`: loopback only"
    )
    experiment: str = Field("lmms-eval", description="experiment of an evaluation that names none", min_length=1)
    task_folders: tuple[Path, ...] = Field((), description="folders with your own lmms-eval tasks, comma separated")
    cpu_slots: int = Field(1, ge=0, le=256, description="evaluations without GPU that this box runs at once")
    box: str = Field(default_factory=socket.gethostname, description="this box's name in the fleet", min_length=1)
    environments: dict[str, str] = Field(
        default_factory=dict, description="evaluation environments of this box: NAME=PYTHON, comma separated"
    )
    labels: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.=\-]{1,100}$")], ...] = Field(
        (), description="words about this box that an evaluation may ask for, comma separated"
    )
    share_gpus: bool = Field(False, description="whether evaluations may share a GPU of this box by memory")
    device_format: Literal["uuid", "index"] = Field(
        "uuid", description="how GPUs are named to evaluations; `index` for libraries that expect numbers"
    )
    lease_ttl_s: float = Field(15.0, ge=2, le=300, description="seconds after which a silent worker loses its work")
    stop_grace_s: float = Field(5.0, ge=0, le=120, description="seconds between SIGTERM and SIGKILL of an evaluation")
    warm_start: bool = Field(
        False, description="whether a slot keeps an imported lmms-eval (about 1 GB) for runs like its last one"
    )
    deadline_s: float = Field(86400.0, ge=1, description="longest time that one part of an evaluation may run")
    no_progress_s: dict[str, float] = Field(
        {"other": 1800.0},
        description="PHASE=SECONDS without progress after which an evaluation counts as hung (`other`: the rest)",
    )
    phase_deadlines_s: dict[str, float] = Field(
        {}, description="PHASE=SECONDS that a phase of one task may take; a phase that is not named: no limit"
    )
    cache_folder: Path | None = Field(
        None,
        description="folder that all boxes share, for answers so far; empty: they go with the run, as a checkpoint",
    )
    checkpoint_mb: int = Field(512, ge=0, description="largest checkpoint that is stored with a run, in MB; 0: none")
    checkpoint_every_s: float = Field(300.0, ge=1, description="seconds between two checkpoints of a run")
    undelivered_s: float = Field(
        120.0, ge=0, description="seconds that a slot waits for an absent server; then its results wait in the spool"
    )
    chunk_size: int = Field(64, ge=1, le=100_000, description="requests after which answers are safe on disk")
    endpoint_rates: dict[str, Annotated[str, Field(pattern=r"^[1-9]\d*/(second|minute|hour|day)$")]] = Field(
        default_factory=dict,
        description="requests that the whole fleet may send to a service: HOST=500/minute, comma separated",
    )
    max_parts: int = Field(
        8, ge=1, le=64, description="most parts that the tasks of one evaluation are spread over when places are idle"
    )
    never_fits_grace_s: float = Field(
        600.0, ge=0, description="seconds after which an evaluation fails that no known box can ever run"
    )
    quota_days: float = Field(30.0, gt=0, le=3660, description="days over which a quota's GPU-hours are counted")
    prefetch: bool = Field(True, description="whether files are fetched before an evaluation gets GPUs")
    prefetch_limit_s: float = Field(
        4 * 3600.0, ge=0, description="longest wait for files to be fetched; then the evaluation loads them itself"
    )
    disk_reserve_gb: float = Field(5.0, ge=0, description="space in GB that fetched files leave free on a box")
    index_poll_s: float = Field(
        60.0, gt=0, description="seconds after which boards show runs that others ended without this server"
    )
    index_sweep_s: float = Field(
        3600.0, gt=0, description="seconds after which boards show whatever others changed without this server"
    )
    thumbnail_mb: int = Field(16, ge=0, le=4096, description="space for the pictures of one task's samples, in MB")
    secrets_offered: tuple[str, ...] = Field(
        (
            "ANTHROPIC_API_KEY",
            "AZURE_OPENAI_API_KEY",
            "DASHSCOPE_API_KEY",
            "GEMINI_API_KEY",
            "GOOGLE_API_KEY",
            "HF_TOKEN",
            "OPENAI_API_KEY",
            "OPENROUTER_API_KEY",
        ),
        description="environment variables of this box that a request may ask for by name",
    )
    secrets_folder: Path | None = Field(
        None, description="folder of this box with one file per secret, named like it"
    )
    trust_remote_code: bool = Field(False, description="whether a request may run code from a model's repository")
    sidebar: bool = Field(True, description="whether our tabs stand in MLflow's own sidebar")
    session_hours: int = Field(12, ge=1, le=24 * 31, description="hours after which a browser must sign in again")
    rate_limit: str = Field("600 per minute", description="calls of our API allowed to one caller")

    @staticmethod
    def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the settings; `overrides` (a command's options that were given) win over everything.

        Raises:
            ConfigurationError: naming the setting, what came and where it came from.
        """
        found = _sources(os.environ if environ is None else environ)
        for name, value in overrides.items():
            if value is not None:
                found[name] = (value, "option")
        try:
            return Settings(**{name: value for name, (value, _) in found.items()})
        except ValidationError as error:
            problems = "; ".join(_problem(item, found) for item in error.errors())
            raise ConfigurationError(f"{problems}. `mlflow-lmms config` lists every setting.") from None

    @staticmethod
    def explain(environ: Mapping[str, str] | None = None) -> list[SettingValue]:
        """Every setting with its value and the place that it comes from."""
        found = _sources(os.environ if environ is None else environ)
        settings = Settings.load(environ)
        return [
            SettingValue(
                name,
                _shown(getattr(settings, name)),
                found[name][1] if name in found else "default",
                field.description or "",
            )
            for name, field in Settings.model_fields.items()
        ]

    @property
    def redis_address(self) -> str:
        """URL of the queue, the embedded server's socket when none was set."""
        return self.redis_url or f"unix://{quote(str(self.redis_socket))}"

    @property
    def redis_socket(self) -> Path:
        """Unix socket of the embedded queue server."""
        return self.data_folder.absolute() / "queue" / "valkey.sock"


def _sources(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    if _TRACKING_URI in environ and environ[_TRACKING_URI].startswith("http"):
        found["server_url"] = (environ[_TRACKING_URI], f"environment ({_TRACKING_URI})")
    if path := environ.get(CONFIG_FILE):
        found.update({name: (value, f"file ({path})") for name, value in _read_file(Path(path)).items()})
    for key, text in environ.items():
        name = key.removeprefix(PREFIX).lower()
        if key.startswith(PREFIX) and key != CONFIG_FILE and text != "":
            if name not in Settings.model_fields:
                raise ConfigurationError(f"no setting is called {key}; `mlflow-lmms config` lists every setting")
            found[name] = (_from_text(name, text), f"environment ({key})")
    return found


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{CONFIG_FILE} names {path}, which cannot be read as TOML: {error}") from None


def _from_text(name: str, text: str) -> Any:
    kind = str(Settings.model_fields[name].annotation)
    items = [item.strip() for item in text.split(",") if item.strip()]
    if "tuple" in kind:
        return items
    if "dict" in kind:
        return dict(item.partition("=")[::2] for item in items)
    return text


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if value is None:
        return ""
    return mask_password(value) if isinstance(value, str) else json.dumps(value, default=str).strip('"')


def mask_password(url: str) -> str:
    """Return `url` with the password in it, if any, replaced by stars."""
    return _PASSWORD.sub(r"\1\2***", url)


def _problem(item: Any, found: dict[str, tuple[Any, str]]) -> str:
    name = str(item["loc"][0])
    value, source = found.get(name, (None, "default"))
    return f"setting {name} from {source}: {item['msg']}, got {value!r}"
