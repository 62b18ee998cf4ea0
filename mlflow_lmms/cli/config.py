"""`mlflow-lmms config`: every setting, its value and where it comes from."""

from __future__ import annotations

import click

from mlflow_lmms.cli.output import format_option, print_json, print_table, wants_json
from mlflow_lmms.settings import PREFIX, Settings


@click.command()
@format_option
def config() -> None:
    """Show every setting, its value and where it comes from (passwords are masked).

    A setting NAME is the environment variable MLFLOW_LMMS_NAME or a line in the TOML file that MLFLOW_LMMS_CONFIG
    names.
    """
    values = Settings.explain()
    if wants_json():
        print_json({value.name: value._asdict() for value in values})
        return
    rows = [(f"{PREFIX}{value.name.upper()}", value.value, value.source, value.meaning) for value in values]
    print_table(["setting", "value", "from", "meaning"], rows)
