"""How the runner is started for a work order: command, environment, request. What becomes of it is not known here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_lmms.model_arguments import format_model_arguments
from mlflow_lmms.settings import Settings
from mlflow_lmms.work_order import WorkOrder
from worker.endpoint_rate import EndpointRate, Grants, endpoint_of
from worker.evaluation_environment import python_of, runner_environ, runner_path
from worker.launch import Launch, plan_launch
from worker.leases import Claim
from worker.warm_start import WarmStart

PROTOCOL = 1
GRANT_DESCRIPTOR = "LMMS_GRANT_FD"
RUNNER = ("-P", "-m", "worker.runner")
#: Fields that the runner's request has from the work order as they are.
_SAME = (
    *("run_id", "part", "attempt", "limit", "offset", "batch_size", "num_fewshot", "seeds", "gen_kwargs"),
    *("repeats", "chunk_size", "thumbnail_bytes", "trust_remote_code", "primary", "dimensions", "errored"),
)


@dataclass(frozen=True)
class Places:
    """Folders of this attempt; `earlier` has the samples whose answers are to be scored again, if any are."""

    cache: Path
    output: Path
    earlier: Path | None = None


@dataclass(frozen=True)
class RunnerStart:
    """What a runner is started with; `rate` is that of the endpoint that it asks, where there is a limit."""

    command: list[str]
    environ: dict[str, str]
    request: dict[str, Any]
    rate: EndpointRate | None

    @contextmanager
    def granting(self) -> Iterator[tuple[Grants | None, dict[str, int]]]:
        """The pipe on which the runner waits for leave to send requests, where their rate is limited."""
        if self.rate is None:
            yield None, {}
            return
        reading, writing = os.pipe()
        grants = Grants(self.rate, writing)
        try:
            yield grants, {GRANT_DESCRIPTOR: reading}
        finally:
            grants.close()
            os.close(reading)


class StartPlan:
    """Makes the start of one work order's runner."""

    def __init__(
        self,
        order: WorkOrder,
        claim: Claim,
        settings: Settings,
        environ: Mapping[str, str],
        secrets: Mapping[str, str],
        warm: WarmStart | None = None,
    ) -> None:
        self._order = order
        self._claim = claim
        self._settings = settings
        self._environ = environ
        self._secrets = secrets
        self._warm = warm

    def start(self, tasks: Sequence[str], model_args: Mapping[str, str], places: Places) -> RunnerStart:
        """The start for these tasks.

        Raises:
            InvalidRequestError: this box does not offer what is asked for, or the launch contradicts itself.
            UnavailableError: the driver does not tell what is needed of the GPUs.
        """
        order, settings = self._order, self._settings
        python = python_of(order.environment, settings)
        environ = runner_environ(
            self._environ,
            mark=self._claim.mark,
            gpus=self._claim.gpus,
            secrets=self._secrets,
            device_format=settings.device_format,
        )
        if order.environment is not None:
            environ["PYTHONPATH"] = str(runner_path(settings.data_folder.absolute() / "runner"))
        launch = Launch(1, dict(model_args))
        if not order.rescore:
            launch = plan_launch(order.model.adapter, model_args, len(self._claim.gpus), order.launch)
        rate = self._rate(launch.model_args, environ)
        request = self._request(tasks, launch, places, rate)
        return RunnerStart(self._command(python, environ, launch, rate), environ, request, rate)

    def _command(
        self, python: str, environ: Mapping[str, str], launch: Launch, rate: EndpointRate | None
    ) -> list[str]:
        cold = [python, *RUNNER]
        # A fork server starts one process, and hands the pipe of grants to nobody.
        if self._warm is None or launch.processes > 1 or rate is not None:
            return cold
        return self._warm.command(cold, self._order.model.adapter, environ, self._secrets)

    def _rate(self, model_args: Mapping[str, str], environ: Mapping[str, str]) -> EndpointRate | None:
        endpoint = endpoint_of(self._order.model.adapter, model_args, environ)
        if endpoint is None or endpoint not in self._settings.endpoint_rates:
            return None
        return EndpointRate(self._settings.redis_address, endpoint, self._settings.endpoint_rates[endpoint])

    def _request(
        self, tasks: Sequence[str], launch: Launch, places: Places, rate: EndpointRate | None
    ) -> dict[str, Any]:
        order = self._order
        return {
            **order.model_dump(mode="json", include=set(_SAME)),
            "protocol": PROTOCOL,
            "model": order.model.adapter,
            "model_args": format_model_arguments(launch.model_args),
            "tasks": list(tasks),
            "include_paths": [folder for folder in order.task_folders if Path(folder).is_dir()],
            "cache_folder": str(places.cache),
            "output_folder": str(places.output),
            "device": None,
            "processes": launch.processes,
            "rescore_from": None if places.earlier is None else str(places.earlier),
            "rate": None if rate is None else {"endpoint": rate.endpoint, "per_minute": rate.per_minute},
        }
