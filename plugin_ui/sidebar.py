"""Puts our tabs into MLflow's own sidebar: one script tag on MLflow's one page, the rest is `static/sidebar.js`."""

from __future__ import annotations

from flask import Flask, Response, request

_HEAD_END = b"</head>"


def install(mlflow_app: Flask, prefix: str, *, signed_in: bool = False) -> None:
    """Add the script to MLflow's page.

    Args:
        mlflow_app: MLflow's Flask app, which serves its page at ``<prefix>/``.
        prefix: MLflow's ``--static-prefix``.
        signed_in: users sign in here, so the account page is offered too.
    """
    account = ' data-account="yes"' if signed_in else ""
    tag = f'<script defer src="{prefix}/lmms/static/sidebar.js" data-root="{prefix}"{account}></script>'.encode()

    def add(response: Response) -> Response:
        if request.path != f"{prefix}/" or response.status_code != 200 or response.mimetype != "text/html":
            return response
        response.direct_passthrough = False  # MLflow sends the page as a file
        page = response.get_data()
        if page.count(_HEAD_END) == 1:
            response.set_data(page.replace(_HEAD_END, tag + _HEAD_END))
            # Of the page as it is now, not of the file: a browser must not keep the one without our tabs.
            del response.headers["Last-Modified"]
            response.add_etag(overwrite=True)
            response.make_conditional(request)
        return response

    mlflow_app.after_request(add)
