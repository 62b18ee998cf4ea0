"""Evaluate large multimodal models with lmms-eval from MLflow."""
