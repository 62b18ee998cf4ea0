"""The MLflow experiment that an import goes to."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_lmms.errors import InvalidRequestError


def experiment_named(client: MlflowClient, name: str) -> str:
    """Return the experiment's id; it is made where it is not there.

    Raises:
        InvalidRequestError: it is deleted, or MLflow does not take the name.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise InvalidRequestError(f"experiment {name!r} could not be created: {error.message}") from None
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another import made it just now
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage == "deleted":
        raise InvalidRequestError(f"experiment {name!r} is deleted: restore it in MLflow, or name another one")
    return str(experiment.experiment_id)
