"""Schema of our tables and its migrations. Every file of tables is imported here, so that the metadata is whole."""

from mlflow_lmms.sql import schema as schema
from mlflow_lmms.sql import schema_feed as schema_feed
from mlflow_lmms.sql import schema_saved as schema_saved
