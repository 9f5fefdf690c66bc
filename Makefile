# Everything runs in .venv at the repository root; the first command that needs it makes it.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 15

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; pass one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

# For tests/browser: the browser that is there, else playwright's, else the system's package.
.venv/browser: .venv/installed
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name && break; done \
	  || $(BIN)/playwright install chromium \
	  || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install --yes chromium; } \
	  || { echo "No browser can be had here: the tests of tests/browser will be skipped."; exit 0; } \
	  && touch $@

# For the tests of clusters and services: a SLURM of one node, and PostgreSQL. In CI they are installed where they lack.
cluster: .venv/installed
	@{ command -v slurmctld && command -v munged && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 \
	  || { [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && apt-get update \
	    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends slurm-wlm munge postgresql; } \
	  || echo "No SLURM or no PostgreSQL here (apt-get install slurm-wlm munge postgresql): their tests are skipped."

setup: .venv/installed  ## create .venv and install the project

ablation: setup  ## train and compare the arms of ablation=lr_clip on the built-in set
	$(BIN)/python experiments/run.py ablation=lr_clip

browser: .venv/browser  ## install a browser for the tests of the dashboard, where there is none

check: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check browser cluster  ## check style and types, and run the tests
	@# In the folders' order, which ends with short files: no process is left alone with a long one.
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Apart from `test`: before Python 3.12 a tracer makes the same tests take half as long again.
coverage: setup  ## measure the share of lines of the core that its tests run, which has a floor
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report term:skip-covered tests/detr

gpu: setup  ## compare a GPU with the CPU, and its speed and memory with peers
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python -m benchmarks.gpu

bench: setup  ## compare speed and memory with peers; the table is kept in benchmarks/results
	$(BIN)/python -m benchmarks

calibrate: setup  ## simulate the statistics' error rates and coverages; the table is kept in docs/calibration.md
	$(BIN)/python -m experiments.results.calibrate

chaos: setup  ## run the long tests of faults: kills, races, fuzz, a tracker that comes and goes (CHAOS_MINUTES=30)
	FUZZ_ROUNDS=$${FUZZ_ROUNDS:-1500} PYTHONPATH=tests/support $(BIN)/python -m pytest -p chaos_table -m '' \
	  $(patsubst %,tests/experiments/%.py,runs/test_fuzz runs/test_faults folders/test_lease runs/test_resume tracking/test_upload runs/test_chaos)

ui: setup  ## start the MLflow UI on the store of mlflow.yaml
	$(BIN)/detr-ui

dashboard: setup  ## open the dashboard on the store of mlflow.yaml
	$(BIN)/detr-dashboard

services: setup  ## start PostgreSQL and an MLflow server on it, to try what a team shares
	$(BIN)/detr-services start

services-stop: setup  ## stop them; their data stays below services/
	$(BIN)/detr-services stop

.PHONY: help setup check cluster coverage gpu services services-stop ablation bench browser test calibrate chaos ui dashboard
