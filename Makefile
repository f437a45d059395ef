# Everything runs in .venv, made from the lock files on the first call; a second call is instant.
# PYTHON=/path/to/python3 chooses another interpreter (3.11 or later) for it.

PY := .venv/bin/python
RUNTIME := .venv/.runtime.stamp
DEV := .venv/.dev.stamp
MAKEFLAGS += --no-print-directory

.PHONY: help env env-dev compile demo test test-bounds test-interpreted test-compiled bench lint format lock clean
.DEFAULT_GOAL := help

help: ## these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

demo: compile ## what this is, on your machine: a minute
	@.venv/bin/unpinned demo $(ARGS)

test: lint compile ## lint, then the tests: bounds-checked, interpreted, compiled
	@scripts/test

test-bounds test-interpreted test-compiled: $(DEV) ## one of the three; ARGS="-k name" goes to pytest
	@scripts/test $(@:test-%=%) -- $(ARGS)

bench: $(DEV) compile ## every benchmark, results in benchmarks/out; ARGS="name ..." chooses
	@$(PY) benchmarks/run_all.py $(ARGS)

lint: $(DEV) ## ruff, mypy, import contracts
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy --no-error-summary
	@$(PY) -c "from importlinter.cli import lint_imports_command as run; run()" --no-logo

format: $(DEV) ## rewrite the sources as ruff lays them out; ARGS="path ..." chooses
	@$(PY) -m ruff check --fix --quiet $(or $(ARGS),.)
	@$(PY) -m ruff format --quiet $(or $(ARGS),.)

lock: $(DEV) ## write the lock files anew (needs a package index); ARGS=--upgrade for newer ones
	@scripts/lock $(ARGS)

env: $(RUNTIME) ## the environment alone
env-dev: $(DEV)

$(RUNTIME): requirements/runtime.txt scripts/environment
	@scripts/environment runtime

$(DEV): requirements/dev.txt scripts/environment
	@scripts/environment dev

compile: $(RUNTIME)
	@$(PY) -c "from unpinned.compiled import build; build.ensure()"

clean: ## remove the environment, caches and results
	rm -rf .venv .venv.lock build dist artifacts benchmarks/out .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
