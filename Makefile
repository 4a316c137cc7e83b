# make demo: train, print a table, write a figure and a report.
# make quick: lint, types, and the doctests and tests that are not slow.
# make test: lint, types, and all doctests and tests.
# make release: sdist and wheel in dist/, and the wheel used with the newest JAX.
# All set up .venv first, with PYTHON, 3.11 or newer; `make clean` for another.

PYTHON ?= python3
SELECT ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo quick test release lint types tests clean

demo: $(VENV)/experiments.installed
	$(BIN)/python -m experiments.compare \
	  --config=experiments/configs/handwritten.py --workdir=runs/demo

# Types are checked by one process, beside the tests; what one of the three
# finds does not keep the others from saying what they find.
test:
	@$(MAKE) --no-print-directory --jobs --keep-going lint types tests

# Doctests elsewhere are slow, all of them: tests/conftest.py.
quick:
	@$(MAKE) --no-print-directory --jobs --keep-going lint types tests \
	  SELECT="-m 'not slow' mimo_jax tests"

release: $(VENV)/test.installed
	$(BIN)/python -m tests.release

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.installed
	$(BIN)/mypy

# Each process takes neighbours, which share what they compile and the data sets
# that they make, and then from those that have more left. Threads of OpenBLAS
# would wait for each other's cores, and take several times as long.
tests: $(VENV)/test.installed
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=worksteal $(SELECT)

$(VENV)/%.installed: setup.cfg setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mimo_jax needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	@# Made by another Python over one that is there, it would be broken. What
	@# has no pip was not made to its end.
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .pytest_cache \
	  .ruff_cache .hypothesis
