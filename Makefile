# The verbs of this repository. Continuous integration uses the same ones (.ci/run).
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
# What `make test` runs; for one file: make test TESTS=tests/contract/test_steps.py
TESTS ?= tests
# What `buf breaking` compares with: the main branch here or at the origin, else the last commit.
BASE ?= $(shell git rev-parse --verify --quiet main || git rev-parse --verify --quiet origin/main || git rev-parse HEAD)

BIN := .venv/bin
CODE := protos service trainer clients tests benchmarks
PIP_INSTALL := -m pip install --quiet --quiet --disable-pip-version-check --root-user-action=ignore

.PHONY: help setup demo test lint format types rules protos drift wire check image clean

help: ## Tell what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: .venv/installed ## Make .venv and install everything into it

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
	  { echo "Hyperact needs Python 3.11, 3.12 or 3.13, and \"$(PYTHON)\" is $$($(PYTHON) --version 2>&1 || true)." \
	         "Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version); this takes a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@# Alone: our DeepSea is checked against bsuite's, which needs nothing of what bsuite as a whole asks for.
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-deps bsuite
	@# Likewise: our estimators are checked against the open bandit pipeline's, which pulls in nothing else that we lack.
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-deps obp
	@# Likewise: a generic inference client, which asks for an older release of something that it does not use.
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-deps tritonclient
	@touch $@

demo: setup ## Play, log, learn and deploy until DeepSea is solved
	@$(BIN)/hyperact demo

test: setup ## Run the tests
	@# Two processes of one thread each: with more threads than cores they wait for each other most of the time.
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q $(TESTS)

lint: setup ## Check style and spelling, here and in the images' recipe
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo 'Not formatted; "make format" does it.' >&2; exit 1; }
	@$(BIN)/codespell
	@$(BIN)/hadolint Dockerfile

format: setup ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --select I --fix .

types: setup ## Check the types
	@$(BIN)/mypy $(CODE)

rules: setup ## Check who imports whom
	@PYTHONPATH=protos:service:trainer:clients $(BIN)/lint-imports --no-logo

.venv-protos/installed: protos/requirements.txt
	@test -x .venv-protos/bin/python || $(PYTHON) -m venv .venv-protos
	@.venv-protos/bin/python $(PIP_INSTALL) -r protos/requirements.txt
	@touch $@

protos: .venv-protos/installed ## Regenerate the stubs beside the .proto files
	@protos/generate.sh "$(CURDIR)/.venv-protos/bin/python"

drift: .venv-protos/installed ## Check that the stubs are those of the .proto files
	@protos/check_drift.sh "$(CURDIR)/.venv-protos/bin/python"

wire: setup ## Check the .proto files, and that they break no client of BASE
	@$(BIN)/buf lint protos
	@$(BIN)/buf breaking protos --against '.git#ref=$(BASE),subdir=protos'

check: lint types rules drift wire ## Check everything but the tests

image: setup ## Build the three images, if a container engine answers
	@$(BIN)/hadolint Dockerfile
	@if docker info >/dev/null 2>&1; then \
	  for target in service trainer client; do docker build --target $$target --tag hyperact-$$target .; done; \
	else \
	  echo 'No container engine answers, so no image was built; the Dockerfile passed hadolint.'; \
	fi

clean: ## Remove what was made here; logs, registries and learner states stay
	@rm -rf .venv .venv-protos build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
