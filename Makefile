# One entry point for people and for CI: everything runs in .venv, which is made when a target needs it.

PYTHON ?= python3
VENV := .venv
# What to pass on to pytest, to a benchmark or to the matrix: `make test ARGS="-k network"`.
ARGS ?=

STAMP := $(VENV)/.ready
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test lint bench matrix test-containers clean help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

demo: $(STAMP) ## run the example project bare, then sandboxed, and show what differs
	$(RUN) example_project/demo.py $(ARGS)

test: $(STAMP) ## run the whole suite
	scripts/get-servers
	$(RUN) -m pytest -n auto $(ARGS)

lint: $(STAMP) ## check style, format and types
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

bench: $(STAMP) ## measure what a sandbox costs, beside other ways to isolate a test
	$(RUN) benchmarks/bench.py $(ARGS)

matrix: ## run the suite on every CPython and pytest this machine can offer
	$(PYTHON) scripts/matrix.py $(ARGS)

test-containers: $(STAMP) ## try the plugin in containers, of Docker, podman and gVisor
	scripts/get-engines
	$(RUN) scripts/containers.py $(ARGS)

clean: ## remove everything that make made
	rm -rf $(VENV) .venvs .containers build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is complete once the stamp is there; a change of the dependencies makes it stale.
$(STAMP): pyproject.toml scripts/make-venv
	scripts/make-venv $(PYTHON) $(VENV)
	@touch $@
