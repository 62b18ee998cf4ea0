"""A Hub on this machine: the part of the Hugging Face Hub's HTTP interface that downloads use, over files in memory.

It counts what it hands out, and can stop in the middle of a file until it is told to go on.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?"
)
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_PIECE = 1 << 16


@dataclass
class Repository:
    """Files of one repository; `refusal` is a status and the Hub's error code for those without `token`."""

    files: dict[str, bytes]
    refusal: tuple[int, str] | None = None
    token: str | None = None

    @property
    def commit(self) -> str:
        whole = hashlib.sha1(b"".join(name.encode() + content for name, content in sorted(self.files.items())))
        return whole.hexdigest()

    def entries(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            for name, content in self.files.items()
        ]


@dataclass
class FakeHub:
    """What the Hub has, and what it was asked for."""

    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    #: Times that a file was handed out to its end, by path.
    downloads: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)
    #: Paths that stop after the first piece until `go_on` is set.
    stuck: set[str] = field(default_factory=set)
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def environ(self, home: Any) -> dict[str, str]:
        """What lets the Hub's libraries use this Hub, with their cache in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        kind = self.headers.get("Content-Type", "")
        told = json.loads(content) if "json" in kind else parse_qs(content)
        self._answer(body=True, paths=told.get("paths", []))

    def _answer(self, *, body: bool, paths: list[str] | None = None) -> None:
        address = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {address}")
        if found := _API.fullmatch(address):
            kind = self.hub.models if found["kind"] == "models" else self.hub.datasets
            if repository := self._allowed(kind.get(found["repo"])):
                self._send_json(_described(found, repository, paths or []))
        elif found := _FILE.fullmatch(address):
            kind = self.hub.datasets if found["kind"] else self.hub.models
            if repository := self._allowed(kind.get(found["repo"])):
                self._send_file(repository, found["path"], body=body)
        else:
            self._refuse(404, "")

    def _allowed(self, repository: Repository | None) -> Repository | None:
        if repository is None:
            self._refuse(401, "RepoNotFound")
            return None
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repository.refusal is not None and (repository.token is None or given != repository.token):
            self._refuse(*repository.refusal)
            return None
        return repository

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_file(self, repository: Repository, path: str, *, body: bool) -> None:
        content = repository.files.get(path)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        for name, value in {
            "X-Repo-Commit": repository.commit,
            "ETag": f'"{_oid(content)}"',
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(content) - start),
            **({"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self._send_pieces(content, path, start)

    def _send_pieces(self, content: bytes, path: str, start: int) -> None:
        try:
            for at in range(start, len(content), _PIECE):
                self.wfile.write(content[at : at + _PIECE])
                self.wfile.flush()
                if path in self.hub.stuck:
                    self.hub.reached.set()
                    self.hub.go_on.wait(60)
        except OSError:  # the client was killed
            self.close_connection = True
            return
        self.hub.downloads[path] += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _described(found: re.Match[str], repository: Repository, paths: list[str]) -> Any:
    if found["what"] == "tree":
        below = found["rest"].partition("/")[2]
        return _children(repository, below)
    if found["what"] == "paths-info":
        return [entry for entry in repository.entries() if entry["path"] in paths]
    return {
        "_id": "1",
        "id": found["repo"],
        "sha": repository.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": "2026-01-01T00:00:00.000Z",
        "lastModified": "2026-01-01T00:00:00.000Z",
        "siblings": [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]} for e in repository.entries()],
    }


def _children(repository: Repository, below: str) -> list[dict[str, Any]]:
    """Files and folders below a folder; in trees as small as these, all of them."""
    files = [entry for entry in repository.entries() if not below or entry["path"].startswith(f"{below}/")]
    folders = {str(parent) for entry in files for parent in PurePosixPath(entry["path"]).parents}
    names = sorted(folder for folder in folders - {".", below} if not below or folder.startswith(f"{below}/"))
    return [*files, *({"type": "directory", "path": name, "size": 0, "oid": _oid(name.encode())} for name in names)]


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed here in the middle of a request."""


@contextmanager
def serve(
    models: Mapping[str, Repository] | None = None, datasets: Mapping[str, Repository] | None = None
) -> Iterator[FakeHub]:
    """A Hub on a free port."""
    hub = FakeHub(dict(models or {}), dict(datasets or {}))
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
