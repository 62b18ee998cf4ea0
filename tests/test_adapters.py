"""Names of lmms-eval's model adapters, against lmms-eval's own list."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlflow_lmms.adapters import check_adapter, installed_adapters
from mlflow_lmms.errors import InvalidRequestError


@pytest.mark.lmms_eval
def test_the_names_are_those_that_lmms_eval_itself_lists() -> None:
    code = "from lmms_eval import models; print(*models.list_available_models(include_aliases=True), sep='\\n')"
    listed = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    known = installed_adapters()
    assert known is not None
    assert set(listed.stdout.split()) <= known


@pytest.mark.parametrize(("name", "hint"), [("qwen2_5_vll", "qwen2_5_vl"), ("..", "--help"), ("nosuch", "--help")])
def test_an_unknown_adapter_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequestError, match="has no model adapter") as caught:
        check_adapter(name)
    assert hint in caught.value.message


@pytest.mark.parametrize("name", ["digits", "openai_compatible", "qwen2_5_vl", "dummy"])
def test_what_there_is_passes(name: str) -> None:
    check_adapter(name)
