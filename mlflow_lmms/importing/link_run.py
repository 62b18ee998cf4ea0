"""Links a run that came from files to a version in the Model Registry, after the fact."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, Metric, Run
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import ConflictError, NotFoundError, UnavailableError
from mlflow_lmms.importing.model_map import linked
from mlflow_lmms.importing.run_facts import ImportedModel, model_tags
from mlflow_lmms.names import MetricName, Tag
from mlflow_lmms.registry import find_version

_AT_ONCE = 1000


def link_run(client: MlflowClient, run_id: str, uri: str) -> ImportedModel:
    """Say which registered version a run is of: its tags, its name, and MLflow's own links.

    Raises:
        NotFoundError: no such run or version.
        ConflictError: the run is one of the queue's, whose model is known.
        UnavailableError: MLflow does not answer.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFoundError(f"there is no run {run_id}") from None
        raise UnavailableError(f"run {run_id} cannot be read: {error.message}") from None
    if run.data.tags.get(Tag.SOURCE) == "queue":
        raise ConflictError(f"run {run_id} was made by the queue from a model of its own: its link cannot be changed")
    tags = run.data.tags
    before = ImportedModel(
        label=_label(tags.get(Tag.MODEL, ""), tags.get(Tag.MODEL_VERSION)),
        name=tags.get(Tag.MODEL, ""),
        adapter=tags.get(Tag.ADAPTER, ""),
        arguments="",
    )
    model = linked(before, find_version(client, uri))
    try:
        _write(client, run, before, model)
    except MlflowException as error:
        raise UnavailableError(f"MLflow did not take the link of run {run_id}: {error.message}") from None
    return model


def _write(client: MlflowClient, run: Run, before: ImportedModel, model: ImportedModel) -> None:
    run_id = run.info.run_id
    name = str(run.info.run_name or "")
    if before.label and name.startswith(f"{before.label} · "):
        client.update_run(run_id, name=f"{model.label}{name.removeprefix(before.label)}"[:250])
    if model.logged_model_id:
        client.log_inputs(run_id, models=[LoggedModelInput(model.logged_model_id)])
        _link_metrics(client, run, model.logged_model_id)
    for key, value in model_tags(model).items():
        client.set_tag(run_id, key, value)
    if Tag.UNREGISTERED in run.data.tags:
        client.delete_tag(run_id, Tag.UNREGISTERED)


def _link_metrics(client: MlflowClient, run: Run, model_id: str) -> None:
    """Write the run's scores once more, the same ones, so that MLflow shows them on the model's page."""
    metrics = []
    for key in run.data.metrics:
        parsed = MetricName.parse(key)
        if parsed is None or parsed.statistic is not None or parsed.dimension is not None:
            continue
        latest = max(client.get_metric_history(run.info.run_id, key), key=lambda own: (own.step, own.timestamp))
        metrics.append(
            Metric(
                key,
                latest.value,
                latest.timestamp,
                latest.step,
                model_id=model_id,
                dataset_name=latest.dataset_name,
                dataset_digest=latest.dataset_digest,
                run_id=run.info.run_id,
            )
        )
    for start in range(0, len(metrics), _AT_ONCE):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + _AT_ONCE])


def _label(name: str, version: str | None) -> str:
    return f"{name} v{version}" if version else name
