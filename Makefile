# Everything a newcomer, a developer and CI need. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell .ci/find-python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
PIP_INSTALL := -m pip install -qq --disable-pip-version-check

# make demo: a folder to archive, and a configuration to archive it with.
DIR ?=
BACKEND ?=
# The Pythons, beside that of $(VENV), on which make test runs the quick tests where they are installed.
OTHERS := 3.13 3.14
# make test: workers, and anything else for pytest, such as ARGS="-k blobs".
WORKERS ?= 4
# Of the quick tests on other Pythons.
OTHER_WORKERS ?= $(WORKERS)
ARGS ?=
# What make lint and make types look at, of what is there.
CODE := $(wildcard specstar tests benchmarks services tools docs/examples)

.PHONY: help demo others collect test test-main test-others lint types types-mypy types-pyright bench bench-quick faults docs services clean

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables: DIR, BACKEND (demo), WORKERS, ARGS (test), PYTHON"

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; none was found. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) -e '.[all,dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@$(BIN)/python $(PIP_INSTALL) -e '.[all,bench]'
	@touch $@

.venv-3.%/.installed: pyproject.toml
	@python=$$(.ci/find-python 3.$*) || { echo "No Python 3.$* that runs was found" >&2; exit 1; }; \
	echo "Making .venv-3.$* with $$("$$python" --version)"; "$$python" -m venv .venv-3.$*
	@.venv-3.$*/bin/python $(PIP_INSTALL) -e '.[all,dev]'
	@touch $@

# Kept: without this, make takes it for a file in between, removes it, and installs everything again next time.
.PRECIOUS: .venv-3.%/.installed

# $(call on_others,WHAT): makes WHAT, with the version for each @, for the other Pythons that are installed.
define on_others
+@main=$$($(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))'); \
	for version in $(OTHERS); do \
		if [ "$$version" = "$$main" ]; then continue; fi; \
		if .ci/find-python $$version >/dev/null; then $(MAKE) $(subst @,$$version,$(1)); \
		else echo "Python $$version is not installed: its quick run is left out"; fi; \
	done
endef

# The environments of the other Pythons, for make -j beside what needs only the first one.
others:
	$(call on_others,.venv-@/.installed)

demo: $(STAMP) ## Archive a folder (DIR=..., by default the standard library) on BACKEND=FILE.json, by default on disk
ifneq ($(BACKEND),)
	@$(BIN)/python -m services run --install --for '$(BACKEND)' -- \
		$(BIN)/python docs/examples/archive.py $(if $(DIR),--dir '$(DIR)') --backend '$(BACKEND)'
else
	@$(BIN)/python docs/examples/archive.py $(if $(DIR),--dir '$(DIR)')
endif

services: $(STAMP) ## Install PostgreSQL, PgBouncer, RabbitMQ, Ceph's S3 gateway, and what the fault tests need
	@$(BIN)/python -m services install

# In this order: GNU make 4.3 would not begin the others beside the main ones with -j.
test: test-others test-main ## Run the quick tests on other Pythons that are installed, and all tests against real servers

# Imports and compiles all tests, once for all workers.
collect: $(STAMP)
	@said=$$($(BIN)/python -m pytest -q --collect-only 2>&1) || { echo "$$said"; exit 1; }; echo "$$said" | tail -n 1

test-main: $(STAMP) services
	$(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS)

test-others:
	$(call on_others,test-@)

# make test-3.13: the quick tests on that Python.
test-3.%: .venv-3.%/.installed
	.venv-3.$*/bin/python -m pytest -q -n $(OTHER_WORKERS) -m 'not slow' -p no:cacheprovider tests/unit $(ARGS)

lint: $(STAMP) ## Check style and format, and that generated code is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(wildcard tools/generate_sync.py),$(BIN)/python tools/generate_sync.py --check)

types: types-mypy types-pyright ## Check types: mypy, strict, and pyright on the public surface

types-mypy: $(STAMP)
	$(BIN)/mypy $(CODE)

types-pyright: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(BENCH_STAMP) services ## Measure against the raw drivers and other libraries, and renew docs/performance.md
	$(BIN)/python -m benchmarks --page $(ARGS)

bench-quick: $(BENCH_STAMP) services ## The same in under three minutes, without the page
	$(BIN)/python -m benchmarks --quick $(ARGS)

faults: $(STAMP) services ## Break things for a long time, count what is lost, and renew docs/reliability.md
	SPECSTAR_STRESS_SECONDS=$${SPECSTAR_STRESS_SECONDS:-60} $(BIN)/python -m pytest -q -n 0 --timeout 3600 \
		tests/acceptance/callers/test_stress.py
	SPECSTAR_FAULTS=$${SPECSTAR_FAULTS:-200} SPECSTAR_FAULTS_PAGE=docs/reliability.md $(BIN)/python -m pytest -q -s -n 0 --timeout 3600 tests/faults $(ARGS)

docs: $(STAMP) ## Build the documentation into docs/_build, warnings as errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## Remove environments, caches and what was built
	rm -rf $(VENV) .venv-* build dist docs/_build .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
