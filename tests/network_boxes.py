"""A fleet whose boxes stand in network namespaces of their own, each on a cable that can be pulled. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import redis
from fault_world import Box, FaultWorld, until
from mlflow_process import ADMIN

from mlflow_lmms.client import Client
from mlflow_lmms.evaluation_queue import EvaluationQueue
from mlflow_lmms.http import Credentials
from mlflow_lmms.kept_process import tied_command
from mlflow_lmms.redis_server import find_program

PASSWORD = "a-password-of-the-queue"


def ip(*words: str) -> None:
    """Run `ip`."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def refusal() -> str:
    """Why namespaces cannot be made here; empty when they can."""
    if shutil.which("ip") is None:
        return "needs ip (iproute2) on PATH"
    name = f"lmms-try-{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("netns", "delete", name)
    except OSError as error:
        return f"needs the right to make network namespaces (root, CAP_NET_ADMIN and CAP_SYS_ADMIN): {error}"
    return ""


class Cable:
    """A namespace and the only link between it and this machine."""

    def __init__(self, number: int) -> None:
        self.namespace = f"lmms-{os.getpid()}-{number}"
        self._here, self._there = f"lm{os.getpid() % 1_000_000}h{number}", f"lm{os.getpid() % 1_000_000}t{number}"
        net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}.{4 * number}"
        *start, last = net.split(".")
        self.host = ".".join([*start, str(int(last) + 1)])
        self._peer = ".".join([*start, str(int(last) + 2)])

    def lay(self) -> None:
        """Make both ends."""
        ip("netns", "add", self.namespace)
        ip("link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", self.namespace)
        ip("address", "add", f"{self.host}/30", "dev", self._here)
        ip("-n", self.namespace, "address", "add", f"{self._peer}/30", "dev", self._there)
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("-n", self.namespace, "link", "set", self._there, "up")
        self.plug()

    def pull(self) -> None:
        """Nothing goes through any more, in either direction, and nobody is told."""
        ip("link", "set", self._here, "down")

    def plug(self) -> None:
        """It goes through again."""
        ip("link", "set", self._here, "up")

    def remove(self) -> None:
        """Take it away."""
        for words in (("link", "delete", self._here), ("netns", "delete", self.namespace)):
            with suppress(OSError):
                ip(*words)


class TcpQueue:
    """A queue server that listens on every address, with a password; what a fleet of several boxes has."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self.port = folder, port
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, host: str) -> str:
        """Its address as that host's peers see it."""
        return f"redis://:{PASSWORD}@{host}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = ["--port", str(self.port), "--bind", "0.0.0.0", "--requirepass", PASSWORD]
        flags += ["--dir", str(self._folder), "--appendonly", "yes", "--save", ""]
        with (self._folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                tied_command([str(find_program().path), *flags]), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        with redis.Redis.from_url(self.url("127.0.0.1")) as connection:
            _until_it_answers(connection)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)


def _until_it_answers(connection: redis.Redis) -> None:
    def answers() -> bool:
        with suppress(redis.RedisError):
            return bool(connection.ping())
        return False

    until(answers, "the queue server to answer")


class NetworkWorld(FaultWorld):
    """A fault world with signed-in boxes behind cables; servers and test stand on this side."""

    cables: dict[str, Cable]

    def lay(self, queue: TcpQueue, *names: str) -> None:
        """Prepare before `start`."""
        self.queue_server = queue
        self.redis_url = queue.url("127.0.0.1")
        self.cables = {name: Cable(number) for number, name in enumerate(names)}
        for cable in self.cables.values():
            cable.lay()

    def start_queue(self) -> None:
        """Start the queue server."""
        self.queue_server.start()

    def connect(self) -> None:
        """Sign in."""
        self.client = Client(self.server.url, Credentials(*ADMIN))
        self.redis = redis.Redis.from_url(self.redis_url, socket_timeout=5)
        self.queue = EvaluationQueue(self.redis_url)

    def far_box(self, name: str) -> Box:
        """A box at the other end of its cable."""
        cable = self.cables[name]
        there = ["--redis-url", self.queue_server.url(cable.host)]
        there += ["--server-url", f"http://{cable.host}:{self.server.port}", "--cpu-slots", "1"]
        sign_in = {"MLFLOW_TRACKING_USERNAME": ADMIN[0], "MLFLOW_TRACKING_PASSWORD": ADMIN[1]}
        return self.box(name, *there, prefix=["ip", "netns", "exec", cable.namespace], **sign_in)

    def close(self) -> None:
        """End everything."""
        super().close()
        self.queue_server.stop()
        for cable in self.cables.values():
            cable.remove()
