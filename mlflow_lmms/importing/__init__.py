"""Existing output folders of lmms-eval and lm-evaluation-harness, and published scores, as MLflow runs.

Files come from anywhere: what is here trusts nothing that they say, and its memory does not grow with them. How a
number is read belongs to `mlflow_lmms.reading`, how it is recorded to `mlflow_lmms.run_recorder`.
"""
