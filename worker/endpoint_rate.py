"""How many requests per time the whole fleet sends to one service: a moving window per endpoint, kept in Redis.

Owns which endpoint an adapter talks to, and the window. The runner asks before each request (`ask` events) and waits
for the answer on a pipe of its own (`Grants`). Counting is the `limits` package's; it goes by the boxes' clocks,
which therefore have to agree (NTP does).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from mlflow_lmms.errors import ConfigurationError

_OPENAI = frozenset(
    """openai openai_compatible openai_compatible_chat async_openai async_openai_compatible
    async_openai_compatible_chat litellm litellm_chat litellm_compatible""".split()  # noqa: SIM905 (a list to read)
)
_OPENAI_BASES = ("OPENAI_API_BASE", "OPENAI_BASE_URL")
_OPENAI_HOST = "api.openai.com"
_AZURE_BASES = ("AZURE_OPENAI_API_BASE", "AZURE_OPENAI_ENDPOINT", "AZURE_ENDPOINT")
#: Variables that may hold another address than the service's own.
_ADDRESSES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("batch_gpt4", "gpt4v", "gpt4o_audio"), ("OPENAI_API_URL",)),
    "claude": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL"),
}
_SERVICES: Mapping[str, str] = {
    **dict.fromkeys(("batch_gpt4", "gpt4v", "gpt4o_audio"), _OPENAI_HOST),
    **dict.fromkeys(("gemini", "gemini_api"), "generativelanguage.googleapis.com"),
    "claude": "api.anthropic.com",
    "qwen_vl_api": "dashscope.aliyuncs.com",
    "reka": "api.reka.ai",
    "generation_api": "queue.fal.run",
}
#: Where LiteLLM sends requests, by the word before the slash of the model's name.
_PROVIDERS: Mapping[str, str] = {
    "anthropic": "api.anthropic.com",
    "gemini": "generativelanguage.googleapis.com",
    "openai": _OPENAI_HOST,
    "openrouter": "openrouter.ai",
    "mistral": "api.mistral.ai",
    "groq": "api.groq.com",
    "deepseek": "api.deepseek.com",
}


def endpoint_of(adapter: str, model_args: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """The host (with its port, where the address has one) that an adapter sends its requests to.

    None: it sends none, or cannot be known.
    """
    if adapter in _OPENAI:
        return _openai_endpoint(adapter, model_args, environ)
    if adapter not in _SERVICES:
        return None
    if adapter != "claude" and environ.get("API_TYPE", "openai") == "azure" and adapter in _ADDRESSES:
        return _host(_first(environ, _AZURE_BASES))
    return _host(_first(environ, _ADDRESSES.get(adapter, ()))) or _SERVICES[adapter]


def _openai_endpoint(adapter: str, model_args: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    if model_args.get("azure_openai", "").strip().lower() in ("true", "1", "yes"):
        return _host(_first(environ, _AZURE_BASES))
    address = model_args.get("base_url") or _first(environ, _OPENAI_BASES)
    if address:
        return _host(unquote(address))
    if adapter.startswith("litellm"):
        model = model_args.get("model_version") or model_args.get("model") or ""
        provider, slash, _ = model.partition("/")
        return _PROVIDERS.get(provider) if slash else _OPENAI_HOST
    return _OPENAI_HOST


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)


def _host(address: str | None) -> str | None:
    if not address:
        return None
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname is None:
        return None
    return parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"


class EndpointRate:
    """The fleet's window for one endpoint."""

    def __init__(self, redis_url: str, endpoint: str, rate: str) -> None:
        """`rate` as in the setting: ``500/minute``.

        Raises:
            ConfigurationError: it is none.
        """
        self.endpoint = endpoint
        try:
            self._rate: RateLimitItem = parse(rate)
        except ValueError as error:
            raise ConfigurationError(
                f"expected the rate of {endpoint} like 500/minute, got {rate!r}; correct MLFLOW_LMMS_ENDPOINT_RATES"
            ) from error
        address = redis_url.replace("unix://", "redis+unix://", 1) if redis_url.startswith("unix://") else redis_url
        self._storage = storage_from_string(address, wrap_exceptions=True)
        self._window = MovingWindowRateLimiter(self._storage)

    @property
    def per_minute(self) -> int:
        """How many requests a minute allows, at least one."""
        return max(1, int(self._rate.amount * 60 / self._rate.get_expiry()))

    def take(self) -> bool:
        """Count one request if the window has room for it now; not while Redis cannot be reached."""
        try:
            return self._window.hit(self._rate, "lmms:endpoint", self.endpoint)
        except StorageError:
            return False


class Grants:
    """Answers the `ask` events of one runner, on the pipe that it waits at."""

    def __init__(self, rate: EndpointRate, descriptor: int) -> None:
        """Take over the writing end of the runner's pipe."""
        self._rate = rate
        self._descriptor = descriptor
        self._asked = 0

    @property
    def waiting(self) -> bool:
        """Whether the runner waits for the endpoint's rate, which is no lack of progress."""
        return self._asked > 0

    def ask(self, requests: int) -> None:
        """The runner wants to send so many more requests."""
        self._asked += requests
        self.look()

    def look(self) -> None:
        """Grant what the rate allows by now; call it several times a second while `waiting`."""
        granted = 0
        while granted < self._asked and self._rate.take():
            granted += 1
        if granted:
            self._asked -= granted
            with suppress(BrokenPipeError):  # the runner has ended
                os.write(self._descriptor, f"{granted}\n".encode())

    def close(self) -> None:
        """Let the runner know that nothing more comes."""
        os.close(self._descriptor)
