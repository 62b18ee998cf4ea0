"""Names the adapter to lmms-eval, which imports it when somebody asks for it."""

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Register the adapter."""
    return ModelManifest(model_id="warm_probe", simple_class_path="warm_adapter.WarmProbe")
