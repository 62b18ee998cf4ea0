"""Short answers in plain ASGI, for what is refused before any app sees it."""

from __future__ import annotations

import json

from starlette.types import Receive, Scope, Send

_POLICY_VIOLATION = 1008


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, kind: str, message: str) -> None:
    """Answer a request with our JSON for errors, and close a WebSocket before it opens (the client sees 403)."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": message[:120]})
        return
    body = json.dumps({"error": {"message": message, "class": kind}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status == 401 and not any(name == b"sec-fetch-mode" for name, _ in scope["headers"]):
        headers.append((b"www-authenticate", b'Basic realm="mlflow"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
