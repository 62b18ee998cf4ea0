"""What we use of MLflow's internals, named one by one; and that no view of ours is open by oversight."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from flask import Blueprint, Flask, Response
from sqlalchemy.exc import OperationalError

from mlflow_lmms.settings import Settings
from plugin_ui import api, mlflow_server, pages, sign_in
from plugin_ui.app import web_app
from plugin_ui.permissions import ANYONE, READ, declared, readable_experiments, requires

ROOT = Path(__file__).parent.parent
DOOR = ROOT / "plugin_ui" / "mlflow_server.py"

#: Module → names of it that the door uses. A new MLflow is checked name by name against this table.
USED = {
    "mlflow.environment_variables": {
        "MLFLOW_ENABLE_WORKSPACES",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "_MLFLOW_SGI_NAME",
    },
    "mlflow.server": {"app"},
    "mlflow.server.auth": {
        "_authenticate_cached",
        "_can_create_in_workspace",
        "_create_not_denied",
        "_graphql_can_read_model",
        "_invalidate_user_auth_cache",
        "_role_based_read_predicate",
        "auth_config",
        "authorize",
        "create_app",
        "make_basic_auth_response",
        "store",
    },
    "mlflow.server.auth.config": {"DEFAULT_AUTHORIZATION_FUNCTION"},
    "mlflow.server.auth.permissions": {
        "MANAGE",
        "RESOURCE_TYPE_EXPERIMENT",
        "RESOURCE_TYPE_REGISTERED_MODEL",
        "RESOURCE_TYPE_REGISTERED_MODEL_VERSION",
        "RESOURCE_TYPE_RUN",
    },
    "mlflow.server.auth.requirements": {"ACTION_NOT_DENIED", "Requirement"},
    "mlflow.server.constants": {"BACKEND_STORE_URI_ENV_VAR", "REGISTRY_STORE_URI_ENV_VAR"},
    "mlflow.server.fastapi_app": {"_EfficientWSGIMiddleware", "create_fastapi_app"},
    "mlflow.server.fastapi_security": {"get_allowed_hosts", "get_allowed_origins"},
    "mlflow.server.handlers": {
        "STATIC_PREFIX_ENV_VAR",
        "_get_artifact_repo_mlflow_artifacts",
        "_get_artifact_repository_for_uri",
        "_get_proxied_run_artifact_destination_path",
        "_get_tracking_store",
        "_get_workspace_scoped_repo_path_if_enabled",
        "_is_servable_proxied_run_artifact_root",
    },
    "mlflow.server.security_utils": {"is_allowed_host_header"},
    "mlflow.server.workspace_helpers": {
        "WORKSPACE_HEADER_NAME",
        "resolve_workspace_for_request_if_enabled",
        "workspace_before_request_handler",
        "workspace_teardown_request_handler",
    },
    "mlflow.store.artifact.artifact_repo": {"ArtifactRepository"},
    "mlflow.utils.uri": {"validate_path_is_safe"},
    "mlflow.utils.workspace_context": {"clear_server_request_workspace", "set_server_request_workspace"},
}
#: Methods of MLflow's user store.
USER_STORE = {"get_user", "grant_user_permission", "has_user", "update_user"}
_PUBLIC = {"mlflow.entities", "mlflow.exceptions"}


def test_the_installed_mlflow_has_been_checked() -> None:
    assert mlflow.__version__ in mlflow_server.CHECKED_ON, (
        f"MLflow {mlflow.__version__} has not been checked: run the server tests on it, then add it to CHECKED_ON"
    )


def test_the_table_of_internals_is_complete_and_each_name_exists() -> None:
    assert used_names(ast.parse(DOOR.read_text(encoding="utf-8"))) == USED
    for module, names in USED.items():
        found = importlib.import_module(module)
        assert [name for name in sorted(names) if not hasattr(found, name)] == [], module
    store = importlib.import_module("mlflow.server.auth").store
    assert [name for name in sorted(USER_STORE) if not hasattr(store, name)] == []
    assert set(_attributes_of(ast.parse(DOOR.read_text(encoding="utf-8")), "auth.store")) == USER_STORE


def used_names(tree: ast.Module) -> dict[str, set[str]]:
    """Every name that the module takes from MLflow, also through the modules that it imports whole."""
    used: dict[str, set[str]] = {}
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name != "mlflow"}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlflow."):
            for alias in node.names:
                if node.module == "mlflow.server":
                    modules[alias.asname or alias.name] = f"mlflow.server.{alias.name}"
                elif node.module not in _PUBLIC:
                    used.setdefault(str(node.module), set()).add(alias.name)
    for name, module in modules.items():
        if module.startswith("mlflow."):
            used.setdefault(module, set()).update(_attributes_of(tree, name))
    return used


def _attributes_of(tree: ast.Module, owner: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == owner:
            yield node.attr


@pytest.mark.parametrize("package", ["mlflow_lmms", "plugin_ui", "worker"])
def test_only_the_door_touches_the_internals(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        if file == DOOR:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            assert not any(f"{name}.".startswith("mlflow.server.") for name in names), file


@pytest.fixture
def app() -> Flask:
    return make_app()


def make_app(*blueprints: Blueprint, rate_limit: str = "1000 per minute") -> Flask:
    services: Any = type("NoServices", (), {"settings": Settings(auth="basic", rate_limit=rate_limit)})
    return web_app(services, "a secret", *(blueprints or (*pages.BLUEPRINTS, *api.BLUEPRINTS, sign_in.blueprint)))


def test_only_these_views_are_open_to_anyone(app: Flask) -> None:
    needed = {name: declared(view) for name, view in app.view_functions.items()}
    assert None not in needed.values()
    anyone = {name for name, permission in needed.items() if permission is ANYONE}
    assert anyone == {"lmms.static", "lmms_sign_in.login", "lmms_sign_in.log_in"}


def test_every_view_but_these_wants_a_caller(app: Flask) -> None:
    visitor, asked = app.test_client(), 0
    for rule in app.url_map.iter_rules():
        if declared(app.view_functions[rule.endpoint]) is ANYONE:
            continue
        path = rule.rule.replace("<int:index>", "1").replace("<int:number>", "1").replace("<path:path>", "x")
        for name in rule.arguments:
            path = path.replace(f"<{name}>", "x")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert visitor.open(path, method=method).status_code == 401, (method, path)
            asked += 1
    assert asked > 25


def test_a_view_without_a_declaration_is_refused() -> None:
    blueprint = Blueprint("careless", __name__)
    blueprint.add_url_rule("/lmms/api/careless", view_func=lambda: "a secret")
    answer = make_app(blueprint).test_client().get("/lmms/api/careless")
    assert answer.status_code == 403
    assert "declares no permission" in answer.get_json()["error"]["message"]


def test_a_view_that_checks_nothing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = Blueprint("careless", __name__)

    @requires(READ)
    def careless() -> str:
        return "a secret"

    @requires(READ)
    def careful() -> str:
        return str(readable_experiments())

    blueprint.add_url_rule("/lmms/api/careless", view_func=careless)
    blueprint.add_url_rule("/lmms/api/careful", view_func=careful)
    services: Any = type("NoServices", (), {"settings": Settings()})
    visitor = web_app(services, None, blueprint).test_client()
    answer = visitor.get("/lmms/api/careless")
    assert (answer.status_code, answer.get_json()["error"]["class"]) == (500, "InternalError")
    assert "secret" not in answer.text and "careless" not in answer.get_json()["error"]["message"]
    assert visitor.get("/lmms/api/careful").text == "None"


def test_too_many_calls_are_refused() -> None:
    blueprint = Blueprint("busy", __name__)

    @requires(ANYONE)
    def busy() -> Response:
        return Response("here")

    blueprint.add_url_rule("/lmms/api/busy", view_func=busy)
    visitor = make_app(blueprint, rate_limit="3 per minute").test_client()
    statuses = [visitor.get("/lmms/api/busy").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = visitor.get("/lmms/api/busy")
    assert "3 per 1 minute" in refused.get_json()["error"]["message"]
    assert int(refused.headers["Retry-After"]) > 0


def test_passwords_cannot_be_tried_at_will(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_server, "check_password", lambda name, password: None)
    visitor = app.test_client()
    statuses = [visitor.post("/lmms/login", data={"username": "a", "password": "b"}).status_code for _ in range(25)]
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429


@pytest.mark.parametrize(
    ("problem", "status", "words"),
    [
        (OperationalError("SELECT secret", {}, Exception("gone")), 503, "does not answer"),
        (RuntimeError("a secret"), 500, "Its log says why"),
    ],
)
def test_without_the_users_database_the_error_is_still_a_page(
    app: Flask, monkeypatch: pytest.MonkeyPatch, problem: Exception, status: int, words: str
) -> None:
    def fails(username: str) -> None:
        raise problem

    monkeypatch.setattr(mlflow_server, "find_user", fails)
    with app.test_client() as visitor:
        with visitor.session_transaction() as session:
            session["_user_id"] = "0123456789abcdef:alice"
        answer = visitor.get("/lmms/password")
    assert answer.status_code == status
    assert words in answer.text
    assert "secret" not in answer.text
