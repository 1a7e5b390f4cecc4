# Everything a person or CI runs. Needs Python 3.11 or newer, git and make; the rest goes into .venv.
PYTHON ?= python3
# Commands and tests start many processes: without compiled files each of them takes a second longer.
export PYTHONDONTWRITEBYTECODE :=
UV_VERSION := 0.13.9
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all test-anythingllm chaos check fix docs bench bench-quick .bench

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: .venv/.synced ## Install the locked dependencies into .venv

.venv/.synced: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/python -m uv sync --quiet --locked --inexact --compile-bytecode
	@touch $@

demo: .venv/.synced ## Run the whole product on real input and write demo-report/
	@$(BIN)/worker demo

# Three at a time on two cores: a third of their time is spent waiting for servers and processes.
test: .venv/.synced ## Run the fast tests on a real PostgreSQL and a real Redis
	@$(BIN)/python -m pytest -m "not slow" -n 3 --dist worksteal

test-slow: .venv/.synced ## Run the tests that the fast run leaves out
	@$(BIN)/python -m pytest -m slow -n 2

test-all: test test-slow ## Run every test

test-anythingllm: .venv/.synced ## Run the tests of AnythingLLM's API against a real server (ANYTHINGLLM_URL, ANYTHINGLLM_API_KEY)
	@: "$${ANYTHINGLLM_URL:?is not set: export the base URL of a server that may be tested, as http://host:3001/api}"
	@: "$${ANYTHINGLLM_API_KEY:?is not set: make a key there under Settings, Developer API, and export it}"
	@$(BIN)/python -m pytest tests/contract/test_anythingllm_api.py

chaos: .venv/.synced ## Kill, stop and cut things for 3 minutes, then check the record (CHAOS_SEED, CHAOS_SECONDS, CHAOS_WORKERS)
	@$(BIN)/python -m tests.chaos

check: .venv/.synced ## Lint, check formatting, types and import direction
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: .venv/.synced ## Format and apply the safe lint fixes
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: .venv/.synced ## Write docs/cli.md anew from the commands' own help
	@$(BIN)/typer worker.cli utils docs --name worker --title "The worker command" --output docs/cli.md

.bench: .venv/.synced
	@$(BIN)/python -m uv sync --quiet --locked --inexact --compile-bytecode --group bench

bench: .bench ## Measure against the peers, three rounds; writes benchmarks/results/
	@$(BIN)/python -m benchmarks

bench-quick: .bench ## The same once and roughly; prints its table
	@$(BIN)/python -m benchmarks --quick --output benchmarks/.quick
