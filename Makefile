# Every target makes the environment it needs: a fresh machine needs only `make demo` and `make test`.
#
#   make demo             run the examples
#   make test             run the tests (small packages only)
#   make test-reference   compare with PyTorch (installs it)
#   make bench            compare speed with PyTorch and JAX (installs both)
#   make bench-loops      compare the speed of loops with JAX and Numba written by hand
#   make bench-scaling    time against size, with a plot
#   make gpu              tests and times on an NVIDIA GPU, with the packages that PYTHON has
#   make lint             ruff, then types
#   make types            mypy alone
#   make format           let ruff rewrite the layout
#   make clean            remove the environment and every cache
#
# PYTHON chooses the interpreter, VENV the environment, PIP_FLAGS adds options to each install.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
TEST_PROCESSES ?= 2
PYTEST_FLAGS ?=
BENCH_FLAGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)

# Installs share one environment, so two must never run at once under `make -j`.
.NOTPARALLEL:
.PHONY: help demo test test-reference bench bench-loops bench-scaling gpu lint types format clean

help:
	@sed -n 's/^#   //p' Makefile

# One stamp for each extra: an edit of pyproject.toml installs again, nothing else does.
$(VENV)/.stamp-python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-%: pyproject.toml | $(VENV)/.stamp-python
	$(INSTALL) --editable '.[$*]'
	@touch $@

demo: $(VENV)/.stamp-examples
	$(BIN)/python examples/linear_regression.py
	$(BIN)/python examples/digits.py
	$(BIN)/python examples/control_flow.py
	$(BIN)/python examples/fit_differential_equation.py
	$(BIN)/python examples/contact_simulation.py

test: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --ignore=tests/reference $(PYTEST_FLAGS)

# The examples run here with their real data and plots; `make test` runs what needs no extra package.
test-reference: $(VENV)/.stamp-reference $(VENV)/.stamp-examples
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(wildcard tests/reference) tests/test_examples.py $(PYTEST_FLAGS)

bench: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

bench-loops: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks.loops $(BENCH_FLAGS)

bench-scaling: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks.scaling $(BENCH_FLAGS)

# No environment of its own: the packages of a machine with a GPU fit its driver.
gpu:
	$(PYTHON) -m benchmarks.gpu

lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: $(VENV)/.stamp-lint
	$(BIN)/mypy

format: $(VENV)/.stamp-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache examples/output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
