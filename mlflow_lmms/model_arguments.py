"""lmms-eval's ``a=b,c=d`` argument strings: taking them apart, putting them together, keeping secrets out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mlflow_lmms.errors import InvalidRequestError

_SECRET_NAME = re.compile(
    r"(^|[_\-.])(token|secret|passwd|pwd|passphrase|credentials?|authorization|bearer)$|passw(or)?d$|^key$"
    r"|(api|access|secret|private|account|openai|azure|anthropic|gemini|google)[_\-]?keys?$"
    r"|(access|auth|bearer|refresh)[_\-]?token$",
    re.IGNORECASE,
)
_NOT_SECRET = frozenset({"pad_token", "eos_token", "bos_token", "image_token", "stop_token", "unk_token"})
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_\-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|AIza[\w\-]{30,})"
    r"|\b(?i:bearer|basic)\s+[\w\-.~+/]{8,}"
    r"|://[^/\s:@]*:[^/\s@]+@"  # https://user:password@host
    r"|(?i:(api|access|secret|private)[_\-]?key|passw(or)?d|(access|auth|hf|refresh)[_\-]?token)"
    r"""["']?\s*[:=]\s*["']?[^\s"',}]{8,}"""  # an argument that is JSON itself
)
_FORBIDDEN = frozenset({"trust_remote_code"})


def parse_model_arguments(text: str) -> dict[str, str]:
    """Take ``"pretrained=a/b,dtype=float16"`` apart.

    Raises:
        InvalidRequestError: a piece without ``=`` or a name given twice.
    """
    arguments: dict[str, str] = {}
    for piece in filter(None, _pieces(text)):
        name, equals, value = piece.partition("=")
        if not equals or not name:
            raise InvalidRequestError(f"arguments are NAME=VALUE,NAME=VALUE; got {piece!r} in {text!r}")
        if name in arguments:
            raise InvalidRequestError(f"argument {name!r} is given twice in {text!r}")
        arguments[name] = value
    return arguments


def _pieces(text: str) -> Iterator[str]:
    """Cut at the commas where lmms-eval cuts: outside quotes and brackets."""
    start, depth, quote = 0, 0, ""
    for at, char in enumerate(text):
        if char in "\"'" and text[at - 1 : at] != "\\":
            quote = char if not quote else "" if char == quote else quote
        elif not quote:
            depth += (char in "{[") - (char in "}]")
            if char == "," and depth == 0:
                yield text[start:at].strip()
                start = at + 1
    yield text[start:].strip()


def format_model_arguments(arguments: Mapping[str, str]) -> str:
    """Put arguments together as lmms-eval takes them.

    Raises:
        InvalidRequestError: an argument that lmms-eval would read differently, because it has no escapes.
    """
    for name, value in arguments.items():
        piece = f"{name}={value}"
        if not name or "=" in name or len(piece.splitlines()) > 1 or list(_pieces(f"{piece},")) != [piece, ""]:
            raise InvalidRequestError(
                f"lmms-eval cannot take the argument {name}={value!r}: a name is needed, a comma must stand inside "
                "closed brackets or quotes, and no space at the ends and no line break can be given"
            )
    return ",".join(f"{name}={value}" for name, value in arguments.items())


def is_secret_name(name: str) -> bool:
    """Whether an argument or a variable of this name is likely to hold a secret."""
    return _SECRET_NAME.search(name) is not None and name.lower() not in _NOT_SECRET


def refuse_secrets(arguments: Mapping[str, str]) -> None:
    """Refuse arguments that hold a secret, because arguments are logged, shown and compared.

    Raises:
        InvalidRequestError: naming the argument (not its value) and the way that works.
    """
    for name, value in arguments.items():
        if (
            is_secret_name(name) and value.strip().lower() not in ("", "true", "false", "none")
        ) or _SECRET_VALUE.search(value):
            raise InvalidRequestError(
                f"argument {name!r} holds a secret, which would be stored with the run: set it as an environment "
                "variable on the worker's box and name it with secrets=NAME (for example OPENAI_API_KEY)"
            )


def refuse_remote_code(arguments: Mapping[str, str]) -> None:
    """Refuse arguments that run code from a model's repository.

    Raises:
        InvalidRequestError: naming the argument and who may allow it.
    """
    for name, value in arguments.items():
        if name in _FORBIDDEN and value.strip().lower() not in ("false", "0", "no", ""):
            raise InvalidRequestError(
                f"argument {name}={value} runs code from the model's repository on the GPU box; an administrator can "
                "allow it with MLFLOW_LMMS_TRUST_REMOTE_CODE=true"
            )
