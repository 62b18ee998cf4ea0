"""The command line `mlflow-lmms`: each file parses the options of one group, calls the core and prints."""
