# What people type. Every target works on a fresh clone; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-input

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types layers format bench drill services lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## install, then watch Evergrant do its whole job against a rehearsal tenant
	@$(BIN)/evergrant demo $(DEMO)

test: $(VENV)/.dev ## install, then run the whole suite on throwaway servers
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

check: lint types layers test ## everything CI checks

lint: $(VENV)/.dev ## style
	@$(BIN)/ruff format --check --quiet . || (echo "run: make format"; exit 1)
	@$(BIN)/ruff check --quiet .

types: $(VENV)/.dev ## mypy --strict
	@$(BIN)/mypy

layers: $(VENV)/.dev ## imports point down, never sideways
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## put the code into shape
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix --quiet .

bench: $(VENV)/.dev ## measure against baselines in the same run; prints ratios
	@$(BIN)/python -m tests.benchmarks $(BENCH)

drill: $(VENV)/.dev ## the long form of the fault drills, some two hours (SEED=… replays one simulation)
	@EVERGRANT_DRILL=long EVERGRANT_SEED="$(SEED)" $(BIN)/python -m pytest -m drill --timeout 7200 tests $(DRILL)

services: ## Debian: the servers that `make test` starts throwaway copies of
	apt-get install -y --no-install-recommends postgresql redis-server rabbitmq-server nodejs

lock: $(VENV)/.dev ## renew the two lock files
	@for extra in "" "--extra dev"; do \
	  $(BIN)/pip-compile $$extra --quiet --upgrade --build-deps-for editable --generate-hashes --strip-extras --allow-unsafe \
	    --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	    --output-file requirements$${extra:+-dev}.lock pyproject.toml; done

clean: ## forget the virtual environment and the demo's data
	rm -rf $(VENV) .evergrant-demo .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || (echo "Evergrant needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1)
	@$(PYTHON) -m venv $(VENV) \
	  || (rm -rf $(VENV); echo "no venv module: apt-get install python3-venv"; exit 1)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	@if [ ! -e $(VENV)/.dev ]; then \
	  echo "Installing (once, about a minute) …"; \
	  $(PIP) --require-hashes -r requirements.lock && $(PIP) --no-deps --no-build-isolation -e .; fi
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing with the test tools (once, one to two minutes) …"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run
