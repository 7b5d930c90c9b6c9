# make demo   sets up .venv and trains on the embedded data: scores, and a report to look at
# make test   sets up .venv and runs all tests
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test lint doctest docs bench clean

demo: .venv/installed
	@if [ -f runs/demo/experiment.yaml ]; then $(BIN)/ccpml train --resume runs/demo; \
	else $(BIN)/ccpml train glyphs --loss multi_similarity --max-steps 600 --run runs/demo; fi

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
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/installed-dev .venv-peers/installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-peers site

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ccpml needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo "installing ccpml into .venv (the first time this takes minutes) ..."
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/created pyproject.toml constraints.txt
	@echo "installing ccpml and its development tools into .venv (the first time this takes minutes) ..."
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/installed

.venv-peers/installed: .venv/created benchmarks/requirements.txt constraints.txt
	@echo "installing the peers of the benchmarks into .venv-peers (the first time this takes minutes) ..."
	$(PYTHON) -m venv .venv-peers
	@grep '^torch==' constraints.txt > .venv-peers/constraints.txt
	.venv-peers/bin/python -m pip install --disable-pip-version-check --quiet \
		--constraint .venv-peers/constraints.txt --requirement benchmarks/requirements.txt
	@touch $@
