"""What the `lmms_eval.models` entry point `digits` points at: the name of the adapter and where its class is."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> "ModelManifest":
    """Describe the adapter to lmms-eval, which loads its class only when somebody asks for the model."""
    # A function and not a value: lmms-eval reads this in the middle of its own import, where a failure is but a
    # warning and also costs it every model announced after this one.
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="digits", simple_class_path="lmms_digits.adapter.Digits")
