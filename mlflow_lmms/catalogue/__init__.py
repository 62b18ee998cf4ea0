"""The benchmark catalogue: tasks, groups and tags of lmms-eval and of the user's own task folders.

Read from YAML and Python files as text; neither lmms_eval nor torch is imported, and nothing is downloaded.
"""

from mlflow_lmms.catalogue.build import read_catalogue
from mlflow_lmms.catalogue.index import Catalogue
from mlflow_lmms.catalogue.task import CatalogueTask
from mlflow_lmms.catalogue.yaml_walk import installed_tasks_folder

__all__ = ["Catalogue", "CatalogueTask", "installed_tasks_folder", "read_catalogue"]
