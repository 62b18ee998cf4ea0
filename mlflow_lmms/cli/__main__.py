"""Starts the command line as a module: `python -P -m mlflow_lmms.cli`."""

from mlflow_lmms.cli.main import main

main()
