"""Keeps code of a model's repository from running, whatever an adapter asks for.

Many adapters of lmms-eval 0.7.3 pass ``trust_remote_code=True`` by themselves. Every such load ends in one function
of transformers, which is replaced here. (transformers 4 and 5.)
"""

from __future__ import annotations

from typing import NoReturn


class RemoteCodeRefusedError(Exception):
    """A model's repository wanted to run code of its own."""


def refuse_remote_code() -> None:
    """From now on a load that would run a repository's code raises `RemoteCodeRefusedError`."""
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        return  # without transformers nothing loads code this way

    def refuse(class_name: str, *_arguments: object, **_options: object) -> NoReturn:
        raise RemoteCodeRefusedError(
            f"the model's repository wants to run code of its own ({class_name}), which is off; an administrator who "
            "trusts it can allow that with MLFLOW_LMMS_TRUST_REMOTE_CODE=true on the server"
        )

    dynamic_module_utils.get_class_in_module = refuse
