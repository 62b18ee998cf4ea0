"""``/lmms`` itself: the leaderboard is where one begins."""

from __future__ import annotations

from flask import redirect, url_for
from werkzeug.wrappers import Response

from plugin_ui.permissions import SIGNED_IN, requires


@requires(SIGNED_IN)
def show() -> Response:
    """Go to the leaderboard."""
    return redirect(url_for("lmms.leaderboard"))
