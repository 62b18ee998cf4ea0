"""Names of the model adapters that the installed lmms-eval can load, read without importing it."""

from __future__ import annotations

import ast
import difflib
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from mlflow_lmms.errors import InvalidRequestError

_ENTRY_POINTS = "lmms_eval.models"
_OURS = "mlflow-lmms"
_TABLES = frozenset({"AVAILABLE_SIMPLE_MODELS", "AVAILABLE_CHAT_TEMPLATE_MODELS", "MODEL_ALIASES"})

#: Adapters that compute elsewhere, or on the CPU: they must not hold a GPU.
WITHOUT_GPU = frozenset(
    """async_openai async_openai_compatible async_openai_compatible_chat batch_gpt4 claude dummy dummy_video_reader
    from_log gemini gemini_api generation_api gpt4o_audio gpt4v litellm litellm_chat litellm_compatible openai
    openai_compatible openai_compatible_chat qwen_vl_api reka srt_api""".split()  # noqa: SIM905 (a list to read)
)


@cache
def installed_adapters() -> frozenset[str] | None:
    """All adapter names; None where they cannot be known: no lmms-eval here, or a plugin that may bring any name."""
    spec = find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    points = entry_points(group=_ENTRY_POINTS)
    if any(point.dist is None or point.dist.name != _OURS for point in points):
        return None
    source = Path(next(iter(spec.submodule_search_locations))) / "models" / "__init__.py"
    try:
        found = _names(ast.parse(source.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        return None
    return (found | {point.name for point in points}) or None


def _names(module: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for statement in module.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id in _TABLES for target in targets):
            table = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            for name, other in table.items():
                names |= {name, *(other if isinstance(other, tuple) else ())}
    return frozenset(names)


def check_adapter(name: str) -> None:
    """Refuse an adapter that lmms-eval does not have, where that can be known.

    Raises:
        InvalidRequestError: with the nearest names.
    """
    known = installed_adapters()
    if known is None or name in known:
        return
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    hint = f"did you mean {', '.join(near)}?" if near else "`python -m lmms_eval --help` and its docs list them"
    raise InvalidRequestError(f"lmms-eval has no model adapter {name!r}; {hint}")
