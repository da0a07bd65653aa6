# Everything a developer runs; CI runs the same (.ci/run). `make demo` and `make test` need nothing done before.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WARMED := $(VENV)/.warmed
TYPED := libs/proxist services/ingest/proxist_ingest services/query/proxist_query \
	services/persister/proxist_persister services/controlplane/proxist_controlplane

.DEFAULT_GOAL := help
.PHONY: help setup check fix test test-slow bench bench-full bench-questdb demo protos

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(WARMED) ## Everything installed in .venv and the kernels compiled; the other targets do it by themselves

check: $(INSTALLED) ## Lint, format, types, layers, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python deploy/helm/generate.py --check
	$(BIN)/python -m proxist.monitoring --check

fix: $(INSTALLED) ## What lint and format can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python deploy/helm/generate.py

test: $(WARMED) ## The tests (ARGS="…" goes to pytest)
	$(BIN)/pytest -m "not slow" $(ARGS)

test-slow: $(WARMED) ## The long fault runs and soaks
	$(BIN)/pytest -m slow $(ARGS)

bench: $(WARMED) ## The figures, each with its floor and its budget, in three minutes: build/bench/report.md
	$(BIN)/python -m benchmarks $(ARGS)

bench-full: $(WARMED) ## Every figure at full size, soak, QuestDB: about an hour
	$(BIN)/python -m benchmarks --size full $(ARGS)

bench-questdb: $(WARMED) ## Only the comparison with QuestDB (java 17 and mvn)
	$(BIN)/python -m benchmarks --only questdb $(ARGS)

demo: $(WARMED) ## A whole cluster for a minute: live view and a check at the end (DATA="FILE…" replays files)
	$(BIN)/proxist demo $(DATA)

protos: $(INSTALLED) ## Regenerate libs/proxist/pb from protos/
	$(BIN)/python protos/generate.py

# A virtual environment that was begun and not finished has no pip, and is made again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "$(PYTHON) is missing or older than 3.11, which Proxist needs. Name another: make PYTHON=python3.12 …"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
		rm -rf $(VENV) && $(PYTHON) -m virtualenv -q $(VENV) >/dev/null 2>&1 || \
		uv venv -q --seed --python $(PYTHON) $(VENV) >/dev/null 2>&1 || { \
		rm -rf $(VENV); \
		echo "No virtual environment can be made: $(PYTHON) has no ensurepip. Run: apt-get install python3-venv"; exit 1; }; }; }
	@echo "Installing into $(VENV); the first time takes a minute or two."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The hot set's kernels are compiled once here, so that no process compiles them while another one does.
$(WARMED): $(INSTALLED) $(wildcard libs/proxist/hot/*.py)
	@$(BIN)/python -m proxist.hot.warm
	@touch $@
