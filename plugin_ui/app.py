"""``mlflow server --app-name lmms``: puts MLflow, our pages, sign-in and live events together, once per process."""

from __future__ import annotations

import sys
from functools import partial

from flask import Blueprint, Flask
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from mlflow_lmms.errors import LmmsError, NotFoundError
from mlflow_lmms.services import Services, build_services
from mlflow_lmms.settings import Settings
from mlflow_lmms.states import FINAL
from mlflow_lmms.wakes import Wakes
from plugin_ui import (
    api,
    authentication,
    error_pages,
    mlflow_server,
    pages,
    permissions,
    rate_limits,
    response_headers,
    sidebar,
    sign_in,
    startup,
    write_hook,
)
from plugin_ui.artifact_files import ArtifactFiles
from plugin_ui.asgi import LARGEST_BODY, FrontApp
from plugin_ui.event_endpoint import EventEndpoint
from plugin_ui.event_hub import EventHub
from plugin_ui.feed_thread import FeedThread
from plugin_ui.origin_guard import OriginGuard
from plugin_ui.reaper_thread import ReaperThread
from plugin_ui.scheduler_thread import SchedulerThread

EXTENSION = "lmms"


def create_app() -> ASGIApp:
    """The factory that MLflow calls in each server process (entry point ``mlflow.app: lmms``)."""
    try:
        settings = Settings.load()
        startup.check_server_kind(mlflow_server.server_kind())
        startup.check_address(settings, sys.argv)
        return _server(settings)
    except (LmmsError, MlflowException) as error:
        startup.refuse(error.message)
    except (SQLAlchemyError, OSError) as error:
        startup.refuse(f"{type(error).__name__}: {error}")


def web_app(services: Services, secret: str | None, *blueprints: Blueprint) -> Flask:
    """Our Flask app alone, which tests also use without an MLflow server.

    Args:
        services: what views work with, by ``current_app.extensions["lmms"]``.
        secret: signs sessions and tokens; None: nobody has to sign in.
        blueprints: the pages; each view declares its permission.
    """
    app = Flask("plugin_ui", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    app.extensions[EXTENSION] = services
    app.before_request(authentication.gate)
    mlflow_server.follow_workspaces(app)
    if secret is not None:
        authentication.install(app, services.settings, secret)
    rate_limits.install(app, services.settings)
    error_pages.install(app)
    response_headers.install(app)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
        if blueprint.has_static_folder:
            static = f"{blueprint.name}.static"
            app.view_functions[static] = permissions.requires(permissions.ANYONE)(app.view_functions[static])
    return app


def _server(settings: Settings) -> FrontApp:
    files = ArtifactFiles()
    with_auth = settings.auth == "basic"
    with startup.one_at_a_time(settings):
        secret = startup.ensure_secret(settings) if with_auth else None
        services = build_services(
            settings,
            backend_store_uri=mlflow_server.backend_store_uri(),
            registry_uri=mlflow_server.registry_store_uri(),
            fetch_artifact=files.fetch,
            store_artifact=files.store,
        )
        ours = web_app(
            services,
            secret,
            *pages.BLUEPRINTS,
            *api.BLUEPRINTS,
            *([sign_in.blueprint] if secret else []),
        )
        mlflow_app = (
            mlflow_server.asgi_app_with_auth(authentication.AUTHORIZATION_FUNCTION)
            if with_auth
            else mlflow_server.asgi_app()
        )
    if settings.sidebar:
        sidebar.install(mlflow_server.flask_app(), mlflow_server.static_prefix(), signed_in=with_auth)
    write_hook.install(mlflow_server.flask_app(), services.feed.note_run, services.feed.note_experiment)
    hub = EventHub(settings.redis_address)
    reaper = ReaperThread(services.reaper.tick)
    scheduler = SchedulerThread(services.scheduler.tick, Wakes(settings.redis_address))
    feed = FeedThread(services.feed)
    return FrontApp(
        mlflow_app=mlflow_app,
        our_app=mlflow_server.wsgi_as_asgi(ours),
        events=EventEndpoint(hub, ours, partial(_is_ended, services)),
        hub=hub,
        guard=OriginGuard(mlflow_server.host_allowed, mlflow_server.origin_allowed),
        prefix=mlflow_server.static_prefix(),
        loopback_only=not with_auth,
        on_start=[reaper.start, scheduler.start, feed.start],
        on_stop=[reaper.stop, scheduler.stop, feed.stop, services.run_tables.close, files.close],
    )


def _is_ended(services: Services, run_id: str) -> bool:
    try:
        return services.store.get(run_id).state in FINAL
    except NotFoundError:  # a run that no queue knows: imported, or logged by a client
        return True
