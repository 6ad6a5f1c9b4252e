# Two commands to know: make quickstart, make test. Everything happens in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# Modules are compiled when they are first imported, not at install: so they must be kept, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install quickstart test test-slow docs clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	# What torch needs differs from build to build, so pip resolves it, from wherever pip is told to look.
	$(PIP) -c constraints.txt torch uv
	# All else is pinned: nothing to search for, and uv brings it several times sooner than pip.
	UV_DEFAULT_INDEX=$${PIP_INDEX_URL:-https://pypi.org/simple} \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r constraints.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

quickstart: install
	$(BIN)/palmette quickstart

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/build_reference.py --check
	$(BIN)/zensical build --clean --strict
	$(BIN)/pytest -n 2 --dist worksteal --durations 15 -m 'not slow'

test-slow: install
	$(BIN)/pytest -n 2 --dist worksteal --durations 25 -m slow

docs: install
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf .venv site runs
