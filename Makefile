# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv first, with the system's python3.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than cores: tests wait for disks, browsers and processes too.
JOBS ?= $(shell expr $$(nproc) + 1)
ROUNDS ?=

.PHONY: demo test test-quick test-gpu lint format bench docs clean browser

demo: $(VENV)/.installed
	$(BIN)/nightschool demo

test: $(VENV)/.installed-dev browser
	NIGHTSCHOOL_KILL_ROUNDS=$(ROUNDS) NIGHTSCHOOL_SHOTS=$(CURDIR)/out/shots $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-quick: $(VENV)/.installed-dev browser
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

# Whole machines on a GPU that nothing else uses. One after the other: some take all of its memory.
test-gpu: $(VENV)/.installed-dev
	NIGHTSCHOOL_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/gpu

# The tests of the page drive Debian's Chromium. Without it they are skipped, and that is said before and after.
browser:
	@command -v chromium > /dev/null || { \
	  echo "Chromium is missing; trying to install it for the tests of the page." >&2; \
	  as=; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
	  $$as apt-get update -qq && $$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	} > /dev/null || echo "!!! CHROMIUM COULD NOT BE INSTALLED: THE TESTS OF THE PAGE IN A BROWSER WILL BE SKIPPED. Install it: apt install chromium"

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
	$(BIN)/python -m benchmarks.dashboard

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

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@
