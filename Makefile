# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv first, with the system's python3.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto
ROUNDS ?=

.PHONY: demo test test-quick lint format bench docs clean

demo: $(VENV)/.installed
	$(BIN)/nightschool demo

test: $(VENV)/.installed-dev
	NIGHTSCHOOL_KILL_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.continuity
	$(BIN)/python -m benchmarks.packing
	$(BIN)/python -m benchmarks.intake
	$(BIN)/python -m benchmarks.snapshots
	$(BIN)/python -m benchmarks.latency

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist out

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@
