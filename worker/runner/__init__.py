"""The runner: one process that evaluates some tasks with one model through lmms-eval and tells the worker about it.

It runs under the evaluation environment's own Python and imports the standard library, lmms-eval and what lmms-eval
itself requires, nothing of the other packages here. `python -P -m worker.runner` starts it; `request` and `events`
are its two ends of the protocol.
"""
