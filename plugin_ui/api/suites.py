"""``/suites``: the named, versioned sets of tasks. Everybody who is signed in reads all of them and may make one;
only a suite's author or an administrator may change it (`mlflow_lmms.suite_store`).
"""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from mlflow_lmms.errors import InvalidRequestError
from mlflow_lmms.suite import NOTE_LIMIT, Suite
from mlflow_lmms.task_plan import check_suite
from plugin_ui.api.parsing import parse_body, whole_number
from plugin_ui.permissions import SIGNED_IN, caller, requires
from plugin_ui.services import services


class PutSuite(BaseModel):
    """A suite's new content, as values or as YAML."""

    model_config = ConfigDict(extra="forbid")

    suite: dict[str, Any] | None = None
    yaml: str | None = None
    note: str = Field("", max_length=NOTE_LIMIT)
    base: int | None = Field(None, ge=1, le=10**9)

    def content(self, name: str) -> Suite:
        """The suite in the body.

        Raises:
            InvalidRequestError: there is none or it is not sound, or it has another name than the address.
        """
        if (self.suite is None) == (self.yaml is None):
            raise InvalidRequestError("give the suite either as suite (an object) or as yaml (a text)")
        suite = Suite.from_yaml(self.yaml) if self.yaml is not None else Suite.parse(self.suite)
        if suite.name != name:
            raise InvalidRequestError(f"the address names suite {name[:100]!r}, the body {suite.name!r}")
        return suite


@requires(SIGNED_IN)
def search_suites() -> ResponseReturnValue:
    """Every suite with its newest revision, by name."""
    return jsonify({"suites": [head.as_json() for head in services().suites.heads()]})


@requires(SIGNED_IN)
def read_suite(name: str) -> ResponseReturnValue:
    """One revision (``?revision=``, default: the newest)."""
    core = services()
    found = core.suites.get(name, _revision())
    return jsonify({**found.as_json(), "author": core.suites.author(name), "yaml": found.suite.as_yaml()})


@requires(SIGNED_IN)
def suite_yaml(name: str) -> ResponseReturnValue:
    """One revision as a YAML file."""
    found = services().suites.get(name, _revision())
    answer = Response(found.suite.as_yaml(), mimetype="application/yaml")
    answer.headers["Content-Disposition"] = f'attachment; filename="{found.name}-{found.revision}.yaml"'
    return answer


@requires(SIGNED_IN)
def suite_history(name: str) -> ResponseReturnValue:
    """Every revision, newest first."""
    return jsonify({"revisions": [revision.as_json() for revision in services().suites.history(name)]})


@requires(SIGNED_IN)
def put_suite(name: str) -> ResponseReturnValue:
    """Make the suite or add a revision; 201 when that was done, 200 when the newest is like this already."""
    core = services()
    body = parse_body(PutSuite)
    suite = body.content(name)
    check_suite(suite, core.catalogue())
    who = caller()
    revision, made = core.suites.put(suite, by=who.username, is_admin=who.is_admin, note=body.note, base=body.base)
    return jsonify({**revision.as_json(), "made": made}), 201 if made else 200


def _revision() -> int | None:
    return whole_number("revision", 0, 1, 10**9) or None
