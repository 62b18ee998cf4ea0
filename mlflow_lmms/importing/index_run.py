"""Asks the server to look at a run that came from files; an MLflow server without our plugin is no fault."""

from __future__ import annotations

from mlflow_lmms.errors import LmmsError
from mlflow_lmms.http import HttpApi


def index_run(server_url: str, run_id: str) -> bool:
    """Let the boards of the server at this address show the run at once; False where there are none."""
    if not server_url.startswith(("http://", "https://")):
        return False
    try:
        HttpApi(server_url).call("POST", f"/runs/{run_id}/index")
    except LmmsError:
        return False
    return True
