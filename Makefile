# Everything happens in .venv, made from the first Python >= 3.11 found (or PYTHON=...).
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PYTHONS := $(strip $(PYTHON) python3.12 python3.11 python3)
SOURCES := stepfall.py einsum arch mapper sim gpu_backend studies tests benchmarks
OUT ?= out
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# A .venv that does not start, was never finished or belongs to another checkout is made anew.
FRESH := $(shell test "`cat $(VENV)/.checkout 2>/dev/null`" = "$(CURDIR)" && $(BIN)/python -c '' 2>/dev/null || echo discard)

.PHONY: help demo test lint unit bench format clean discard
.DEFAULT_GOAL := help

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## Install the core in .venv, run the FuseMax study, print its table
	@$(BIN)/stepfall study fusemax --out $(OUT)/fusemax

test: lint unit ## Install what tests need; check style, types and layers; run the tests

lint: $(VENV)/.dev ## Check style, types and layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
# Named, since a pyrightconfig.json in a folder above would win over it.
	$(BIN)/pyright --project pyproject.toml
	$(BIN)/lint-imports

unit: $(VENV)/.dev ## Run the tests alone (ARGS=... goes to pytest)
	$(BIN)/python -m pytest -n auto $(ARGS)

bench: $(VENV)/.core ## Run the benchmarks: start-up and speed
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

format: $(VENV)/.dev ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## Remove .venv, outputs and caches
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.checkout: $(FRESH)
	@rm -rf $(VENV); \
	for python in $(PYTHONS); do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  $$python -c 'import venv, ensurepip' 2>/dev/null || { bare=$$python; continue; }; \
	  echo "Making $(VENV) with `$$python --version`"; \
	  $$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
	  echo "$(CURDIR)" > $@; exit 0; \
	done; \
	if [ -n "$$bare" ]; then echo "$$bare cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; \
	else echo "Python 3.11 or newer is needed (tried: $(PYTHONS)); on Debian: apt-get install python3 python3-venv" >&2; fi; \
	exit 1

discard:

$(VENV)/.core: $(VENV)/.checkout pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[dev,gpu]'
	@touch $@
