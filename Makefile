# CI runs these targets. Each creates .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow lint bench

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/fullconv demo -o demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One process per core with one thread each: twice as fast as one process with two threads.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 8 --dist worksteal

test-slow: setup
	$(BIN)/pytest -q -m slow

bench: setup
	$(BIN)/python benchmarks/training_step.py
