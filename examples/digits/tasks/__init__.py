"""The task files of the digits benchmark, for lmms-eval to load; no module to import."""
