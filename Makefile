# Every command works in a fresh clone on a machine with python3 >= 3.11, pip, make and git.
.DEFAULT_GOAL := help
.SUFFIXES:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo
PACKAGES := sparsecode sae retrieval

.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: install
install: $(VENV)/.installed ## Create .venv with the library and everything that its tests need.

# torch comes first and alone, so that nothing later can bring another build of it. Where ensurepip is
# missing (Debian splits it off), the pip of the outside python fills the empty environment.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("python3 must be 3.11 or newer; got " + sys.version.split()[0] + ". Name another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,demo,docs]'
	@touch $@

.PHONY: test
test: install ## Run all tests: kernels, docstring examples, tutorials.
	$(BIN)/python -m pytest

.PHONY: check
check: install ## Lint, formatting, types, layers, spelling.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/codespell

.PHONY: format
format: install ## Rewrite the sources in the house format.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
