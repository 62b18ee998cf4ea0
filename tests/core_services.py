"""Fixtures: a real MLflow store, and the core as the server puts it together. A pytest plugin, see conftest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_lmms.catalogue import Catalogue, read_catalogue
from mlflow_lmms.database import open_database
from mlflow_lmms.run_reader import no_such_artifact
from mlflow_lmms.services import Services, build_services
from mlflow_lmms.settings import Settings
from mlflow_lmms.sql.migration import migrate

hypothesis.settings.register_profile("lmms", deadline=None)  # busy machines are slow, which is no failure
hypothesis.settings.load_profile("lmms")


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database as a new server makes it; making one takes seconds, so tests copy this one."""
    file = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)  # MLflow makes its default artifact folder where it stands
        MlflowClient(f"sqlite:///{file}").search_model_versions("")
    return file


@pytest.fixture
def mlflow_uri(mlflow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend store of its own in `tmp_path`, where the test then stands; artifacts are local files there."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{shutil.copy(mlflow_template, tmp_path / 'mlflow.db')}"


@pytest.fixture
def mlflow_client(mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """MLflow's own client on `mlflow_uri`."""
    look_models_up_at(mlflow_uri, monkeypatch)
    return MlflowClient(mlflow_uri)


@pytest.fixture(scope="session")
def shared_mlflow(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of one backend store for the whole session; opening one takes tenths of a second."""
    return Path(shutil.copy(mlflow_template, tmp_path_factory.mktemp("mlflow") / "mlflow.db"))


@pytest.fixture(scope="session")
def lmms_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with our tables, empty."""
    file = tmp_path_factory.mktemp("lmms-template") / "lmms.db"
    engine = open_database(f"sqlite:///{file}")
    migrate(engine)
    engine.dispose()
    return file


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The catalogue of the installed lmms-eval, read once."""
    return read_catalogue([])


@pytest.fixture
def services(
    shared_mlflow: Path,
    lmms_template: Path,
    empty_valkey: str,
    tmp_path: Path,
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Services]:
    """The core as the server puts it together: real MLflow store, tables, queue server and catalogue.

    The MLflow store is the session's; tables, queue server and data folder are the test's own.
    """
    monkeypatch.chdir(shared_mlflow.parent)
    monkeypatch.setattr("mlflow_lmms.services.read_catalogue", lambda folders: catalogue)
    client = MlflowClient(f"sqlite:///{shared_mlflow}")
    look_models_up_at(client.tracking_uri, monkeypatch)
    own = shutil.copy(lmms_template, tmp_path / "lmms.db")
    with core_on(
        client, Settings(data_folder=tmp_path / "data", redis_url=empty_valkey, database_url=f"sqlite:///{own}")
    ) as built:
        yield built


@contextmanager
def core_on(client: MlflowClient, settings: Settings) -> Iterator[Services]:
    """The core on a client's MLflow store."""

    def fetch(run_id: str, path: str) -> Path:
        try:
            return Path(client.download_artifacts(run_id, path))
        except (OSError, MlflowException):
            raise no_such_artifact(run_id, path) from None

    def store(run_id: str, file: Path, folder: str) -> None:
        client.log_artifact(run_id, str(file), folder)

    built = build_services(
        settings,
        backend_store_uri=client.tracking_uri,
        registry_uri=None,
        fetch_artifact=fetch,
        store_artifact=store,
    )
    yield built
    built.run_tables.close()
    built.store.engine.dispose()


def look_models_up_at(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stores of this process look logged models up in `uri`; they ask MLflow's global address, whoever set it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", uri)
