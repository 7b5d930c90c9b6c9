# make demo   set up .venv, train on the built-in photographs without and with CCP, print scores, write a report
# make test   set up .venv, run all tests
# make lint, doctest, docs, bench   the other checks, the pages, and the tables of docs/benchmarks.md
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test lint doctest docs bench clean

demo: .venv/installed
	@if [ -f runs/demo-plain/experiment.yaml ]; then $(BIN)/ccpml train --resume runs/demo-plain; \
	else $(BIN)/ccpml train groceries --epochs 10 --method plain --run runs/demo-plain; fi
	@if [ -f runs/demo/experiment.yaml ]; then $(BIN)/ccpml train --resume runs/demo; \
	else $(BIN)/ccpml train groceries --epochs 10 --run runs/demo; fi
	@$(BIN)/ccpml compare runs/demo-plain runs/demo

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

doctest: .venv/installed-dev
	$(BIN)/python -m pytest --override-ini addopts= --doctest-modules src/ccpml

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/installed-dev .venv-peers/installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-peers site

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ccpml needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo "installing ccpml into .venv (takes minutes the first time) ..."
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/created pyproject.toml constraints.txt
	@echo "installing ccpml and its development tools into .venv (takes minutes the first time) ..."
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/installed

.venv-peers/installed: .venv/created benchmarks/requirements.txt constraints.txt
	@echo "installing other libraries for the benchmarks into .venv-peers (takes minutes the first time) ..."
	$(PYTHON) -m venv .venv-peers
	@grep '^torch==' constraints.txt > .venv-peers/constraints.txt
	.venv-peers/bin/python -m pip install --disable-pip-version-check --quiet \
		--constraint .venv-peers/constraints.txt --requirement benchmarks/requirements.txt
	@touch $@
