# make demo: train, print a table, write a figure and a report.
# make test: lint, types, doctests and tests.
# Both set up .venv first. PYTHON names the interpreter, 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/experiments.installed
	$(BIN)/python -m experiments.compare \
	  --config=experiments/configs/handwritten.py --workdir=runs/demo

test: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses=auto

$(VENV)/%.installed: setup.cfg setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mimo_jax needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .pytest_cache \
	  .ruff_cache .hypothesis
