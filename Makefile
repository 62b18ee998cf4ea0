# `make demo` and `make test` are all the set-up there is: they make a virtual environment on first use.
#
#   make demo [ARGS=--exit]   everything on this machine: server, queue, worker, three models evaluated and ranked
#   make test [ARGS=…]        the whole test suite (ARGS go to pytest), JOBS files at a time
#   make check                formatting, lint, types, import rules
#   make bench                every benchmark
#   make soak [ARGS=…]        500 evaluations while everything is killed again and again (docs/faults.md)
#   make dev                  `up` for developers: Python and templates reload, an empty history is seeded
#
# PYTHON: the Python to make the environment with. VENV: where to put it.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# Tests wait for servers more than they compute: one process more than there are cores, at most 8.
JOBS   ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 7 ? cores + 1 : 8)))
BIN    := $(VENV)/bin
ENVIRONMENT = @command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.11-3.13" >&2; exit 1; }; \
	$(PYTHON) .ci/make_environment.py $(VENV)

.PHONY: demo test check bench soak dev
.DEFAULT_GOAL := demo

demo:
	$(ENVIRONMENT) local
	@exec $(BIN)/mlflow-lmms demo $(ARGS)

test:
	$(ENVIRONMENT) local,dev
	$(BIN)/python -P -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check:
	$(ENVIRONMENT) local,dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench:
	$(ENVIRONMENT) local,dev
	@set -e; for file in $(filter-out benchmarks/soak.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python -P $$file; done

soak:
	$(ENVIRONMENT) local,dev
	@exec $(BIN)/python -P benchmarks/soak.py $(ARGS)

dev:
	$(ENVIRONMENT) local,dev
	@exec $(BIN)/mlflow-lmms up --dev $(ARGS)
