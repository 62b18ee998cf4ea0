"""Describes tasks: reads what a merged task file states and derives the rest. One piece of work a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_lmms.catalogue.category import derive_category
from mlflow_lmms.catalogue.dimensions import DimensionReader
from mlflow_lmms.catalogue.languages import derive_languages
from mlflow_lmms.catalogue.metrics import read_metrics, submission_only
from mlflow_lmms.catalogue.modality import ModalityReader
from mlflow_lmms.catalogue.requirements import JudgeReader, derive_download, derive_remote_code, derive_token
from mlflow_lmms.catalogue.source_text import SourceTexts
from mlflow_lmms.catalogue.task import CatalogueTask
from mlflow_lmms.catalogue.trouble import known_trouble
from mlflow_lmms.catalogue.yaml_walk import TaskFile, listed


class TaskDescriber:
    """Turns task files into catalogue entries; looks at each piece of code once."""

    def __init__(self, installed: Path | None) -> None:
        """`installed` is lmms-eval's own tasks folder, where there is one."""
        self._installed = installed
        self._sources = SourceTexts(None if installed is None else installed.parent.parent)
        self._modality = ModalityReader(self._sources)
        self._judge = JudgeReader(self._sources)
        self._dimensions = DimensionReader(self._sources)

    def describe(self, name: str, file: TaskFile, *, own: bool) -> CatalogueTask:
        """The entry of the task `name`."""
        config = file.config
        output_type = str(config.get("output_type") or "generate_until")
        metrics = read_metrics(file, output_type, self._sources)
        modality = self._modality.read(name, file)
        return CatalogueTask(
            name=name,
            path=file.path,
            output_type=output_type,
            dataset=str(config.get("dataset_path") or ""),
            tags=(*listed(config.get("tag")), *listed(config.get("group"))),
            own=own,
            dataset_name=str(config.get("dataset_name") or ""),
            split=str(config.get("test_split") or config.get("validation_split") or ""),
            num_fewshot=_number(config.get("num_fewshot")),
            repeats=_number(config.get("repeats")) or 1,
            filters=_filters(config.get("filter_list")),
            metrics=metrics,
            modality=modality,
            category=derive_category(name, file, self._folder(file.path, own), modality.value),
            languages=derive_languages(name, config, file.path.parent.name.lower()),
            dimensions=self._dimensions.read(file),
            judge=self._judge.read(file),
            token=derive_token(config),
            download=derive_download(config),
            remote_code=derive_remote_code(config),
            submission_only=submission_only(metrics),
            trouble=tuple(known_trouble(file, output_type, self._sources)),
            dataset_kwargs=config["dataset_kwargs"] if isinstance(config.get("dataset_kwargs"), dict) else {},
        )

    def _folder(self, path: Path, own: bool) -> Path | None:
        return None if own or self._installed is None else path.parent.relative_to(self._installed)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _filters(value: Any) -> tuple[str, ...]:
    entries = value if isinstance(value, list) else []
    return tuple(str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry)
