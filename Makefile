# Everyday commands. `make run` and `make test` need Python 3.10+, make and a package index; they make their own environment.

PYTHON ?= python3
VENV ?= .venv
NEURON_VENV ?= .venv-neuron
BIN := $(VENV)/bin
ARGS ?=
# Tests run in WORKERS processes, a file at a time; 0 runs them in one process, as a debugger needs.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-neuron check bench screenshots recording docs reference map train evaluate clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/'

run: $(VENV)/.run-ready ## Start the demo; ARGS="--port 7870" passes options on
	@exec $(BIN)/python app.py $(ARGS)

test: $(VENV)/.test-ready ## Run every test: unit, contract, api and browser; ARGS="-k scheduler" chooses
	@sh scripts/ensure_chromium.sh $(BIN)/python
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.test-ready ## Run the unit and contract tests without the slow ones
	$(PYTEST) -m "not slow" tests/unit tests/contract $(ARGS)

test-neuron: $(NEURON_VENV)/.ready ## Test the Neuron engine on NxDI's code; NXD_SRC=… NXDI_SRC=… name the src folders of NxD 0.18 and NxDI 0.9
	@test -d "$(NXD_SRC)" -a -d "$(NXDI_SRC)" || { echo "NXD_SRC and NXDI_SRC must name the src folders of NxD and NxDI" >&2; exit 2; }
	NXD_SRC="$(NXD_SRC)" NXDI_SRC="$(NXDI_SRC)" $(NEURON_VENV)/bin/python -m pytest -W ignore::UserWarning tests/contract/engine/nxdi $(ARGS)

check: $(VENV)/.test-ready ## Formatting, lint, types, and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.test-ready ## Measure start-up, speed and memory (benchmarks/first_light.py)
	$(BIN)/python -m benchmarks.first_light $(ARGS)

screenshots: $(VENV)/.test-ready ## Pictures of every screen, both themes at three widths, into docs/images
	$(BIN)/python scripts/screenshots.py $(ARGS)

recording: $(VENV)/.test-ready ## The short recording in README, docs/images/demo.gif
	$(BIN)/python scripts/recording.py

docs: $(VENV)/.test-ready ## Build the documentation site into site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(VENV)/.test-ready ## Write docs/reference from the code
	$(BIN)/python scripts/write_reference.py

map: $(VENV)/.test-ready ## Draw the map of imports between packages into docs/images/imports.svg
	$(BIN)/python scripts/draw_map.py

train: $(VENV)/.test-ready ## Make the embedded checkpoint anew, from registry packages; ARGS="--minutes 240", see training/README.md
	$(BIN)/python -m training $(ARGS)

evaluate: $(VENV)/.test-ready ## The embedded checkpoint's table of figures; ARGS="--cases 200"
	$(BIN)/python -m training.evaluate mllama_demo/embedded $(ARGS)

clean: ## Remove the environment and caches; conversations in data/ stay
	rm -rf $(VENV) $(NEURON_VENV) .pytest_cache .ruff_cache .hypothesis tests/browser/screenshots site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python-ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with PYTHON=python3.11 make run" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run-ready: requirements.txt | $(VENV)/.python-ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

$(VENV)/.test-ready: requirements.txt requirements-dev.txt | $(VENV)/.python-ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	@touch $@ $(VENV)/.run-ready

$(NEURON_VENV)/.ready: tests/contract/engine/nxdi/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with PYTHON=python3.11 make test-neuron" >&2; exit 2; }
	$(PYTHON) -m venv $(NEURON_VENV)
	$(NEURON_VENV)/bin/python -m pip install --disable-pip-version-check -q -r $<
	@touch $@
