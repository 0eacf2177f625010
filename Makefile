# Every target makes what it needs: a clone, Python 3.11 or newer, make and git are enough.
# `make` alone prints the targets, from the sentences behind the two hashes.

VENV   := .venv
PYTHON := $(VENV)/bin/python
READY  := $(VENV)/.ready

# Passed on to the program that a target runs: make test ARGS="-k refund -x"
ARGS ?=
# `make lock UPGRADE=--upgrade` moves every pin; without it only what pyproject.toml asks for moves.
UPGRADE ?=
# What the campaigns start from. Printed, so that a failure can be run again: make test-long SEED=4711
ifndef SEED
SEED := $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-long test-system lint bench lock clean

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make .venv with ledger-worker in it, from the lock; nothing to do the second time

demo: $(READY) ## start PostgreSQL and Kafka here, send events, show what became of them
	$(VENV)/bin/ledger-worker demo $(ARGS)

test: $(READY) ## run the tests, on a cluster that they start themselves
	$(PYTHON) -m pytest -n auto $(ARGS)

test-long: $(READY) ## run the campaigns: minutes each, from a printed seed (SEED=... repeats one)
	@echo "seed $(SEED): run it again with make test-long SEED=$(SEED)"
	LEDGER_TEST_SEED=$(SEED) $(PYTHON) -m pytest -m long --hypothesis-seed=$(SEED) --timeout=3600 $(ARGS)

test-system: $(READY) ## run the tests that need kcat and promtool, installed first where that is possible
	deploy/system-packages
	$(PYTHON) -m pytest -m system $(ARGS)

lint: $(READY) ## check style, format, types, and which room imports which
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports --no-logo

bench: $(READY) ## measure throughput and latency beside their floor
	$(PYTHON) -m tests.benchmarks $(ARGS)

# Only names, versions and hashes are written: where the packages come from is each machine's own setting.
lock: $(READY) ## write requirements.lock again, for every platform and with hashes
	$(PYTHON) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 $(UPGRADE) \
		--all-extras --group test --group lint --group build \
		--generate-hashes --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock

clean: ## remove .venv, the caches and what was built
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is touched last, so a setup that was interrupted is taken up again. What builds the editable install
# comes from the lock too, hence no build isolation, which would fetch whatever is newest.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c '' 2>/dev/null || { \
		for python in python3.11 python3.12 python3.13 python3.14 python3; do \
			$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
			exec $$python -m venv --clear $(VENV); \
		done; \
		echo "make setup needs Python 3.11 or newer with its venv module, as python3.11 or python3 on the PATH." >&2; \
		exit 1; \
	}
	@echo "installing the locked packages into $(VENV)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
