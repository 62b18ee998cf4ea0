"""Reads the catalogue for a command."""

from __future__ import annotations

from mlflow_lmms.catalogue import Catalogue, read_catalogue


def load_catalogue() -> Catalogue:
    """The installed lmms-eval's tasks and those of the folders that the settings name."""
    from mlflow_lmms.settings import Settings

    return read_catalogue(Settings.load().task_folders)
