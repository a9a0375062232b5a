# `make` lists the targets; `make check` is what CI runs, nothing else.
#
# Everything lands in .venv, .venv-sdk-old and .venv-sdk-mid, from the hash-locked files and nothing beside them. A stamp
# file records that an installation finished, so that a half-done one is done again and a finished one costs nothing.

PYTHON ?= python3
ARGS ?=
SEED ?= 0

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# No byte code at installation: what is imported compiles itself once, the rest of 90 MB never needs to.
INSTALL := $(PIP) install --quiet --no-compile --require-hashes
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock' $(ARGS)
PYTEST := $(BIN)/pytest
# One import leaves the byte code behind.
IMPORT := $(BIN)/python -c
# Where the environment forbids byte code, each of some hundred processes of the tests would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test check bench score torture sim figures corpus fuzz sdk image lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed ## create .venv with the locked packages and .venv/bin/outrider

run: install ## start the proxy with config.example.yaml (without any key in the environment: the demo)
	$(BIN)/outrider run --config config.example.yaml $(ARGS)

test: install sdk ## run the tests; ARGS='-k breaker' passes arguments on
	$(PYTEST) -n 4 --dist worksteal $(ARGS)

check: install sdk ## formatting, lint, types, import rules, tests: exactly what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -n 4 --dist worksteal

bench: install ## the proxy beside the bare relay (and Envoy where it is installed); ARGS='--quick', '--profile'
	$(BIN)/python -m tests.bench.run $(ARGS)

score: install ## how well recordings are translated between all dialects; ARGS=--list names what goes wrong
	$(BIN)/python -m tests.conformance.score $(ARGS)

torture: install sdk ## run the long tests with fresh random examples
	$(PYTEST) -m torture --hypothesis-profile=torture -n 2 $(ARGS)

sim: install ## one seeded world again, with its trace: make sim SEED=7 (ARGS=--quiet without)
	$(BIN)/python -m tests.simulation.replay_seed $(SEED) $(ARGS)

figures: install ## the figures of the literature and the claims of the field, as a table; ARGS='claim C6', ARGS=--short
	$(BIN)/python -m tests.simulation.figures $(ARGS)

corpus: install ## every case of the HTTP corpora: what the process did, and by which section of its RFC that is right
	$(BIN)/python -m tests.fuzz.corpus

fuzz: install .venv-fuzz/.installed ## coverage-guided fuzzing, a minute for each target; ARGS='sse -max_total_time=600' for one
	PYTHONPATH=.venv-fuzz $(BIN)/python -m tests.fuzz.guided $(ARGS)

sdk: .venv-sdk-old/.installed .venv-sdk-mid/.installed .venv/.imported ## install the older majors of the SDKs, for PYTHONPATH=.venv-sdk-old

image: ## build the image with docker, podman or buildah; ARGS=images.example.com/outrider:0.1.0 names it
	k8s/image.sh $(ARGS)

# uv reads neither pip's configuration nor pip's variables, so it is told which index pip uses.
lock: .venv/.python ## write the lock files again; ARGS=--upgrade moves to newer versions
	$(PIP) install --quiet 'uv>=0.9'
	@index="$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null)}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; set -ex; \
	$(LOCK) pyproject.toml --all-extras -o requirements.lock; \
	$(LOCK) pyproject.toml --all-extras --group dev -c requirements.lock -o requirements-dev.lock; \
	$(LOCK) --group fuzz -o requirements-fuzz.lock; \
	$(LOCK) --group build -c requirements-dev.lock -o requirements-build.lock; \
	$(LOCK) --group sdk-old -o requirements-sdk-old.lock; \
	$(LOCK) --group sdk-mid -o requirements-sdk-mid.lock

clean: ## remove everything that was generated, the virtual environments too
	rm -rf .venv .venv-sdk-old .venv-sdk-mid .venv-fuzz .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find proxy tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "outrider needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.locked: requirements-dev.lock | .venv/.python
	$(INSTALL) -r $<
	@touch $@

# Without isolation the build takes hatchling from the lock and asks the index for nothing.
.venv/.installed: pyproject.toml .venv/.locked
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@# Everything that a start needs: without it every start would compile for half a second.
	@$(IMPORT) 'import proxy.cli, proxy.app, proxy.config.load, proxy.demo.world, uvloop'
	@touch $@

# The clients that tests import: each of the many processes would compile them for seconds.
.venv/.imported: .venv/.locked
	@$(IMPORT) 'import openai, anthropic, google.genai, boto3, langchain_openai, langchain_anthropic' 2>/dev/null
	@$(IMPORT) 'import pydantic_ai.models.openai, pydantic_ai.models.anthropic, pydantic_ai.providers.openai' 2>/dev/null
	@touch $@

# Directories of their own, not environments: two majors of one SDK cannot live together, and the oldest needs an httpx
# that the newest refuses.
.venv-sdk-%/.installed: requirements-sdk-%.lock | .venv/.python
	rm -rf $(@D)
	$(INSTALL) --no-warn-conflicts --target $(@D) -r $<
	@PYTHONPATH=$(@D) $(IMPORT) 'import openai, anthropic'
	@printf '*\n' > $(@D)/.gitignore
	@touch $@

.venv-fuzz/.installed: requirements-fuzz.lock | .venv/.python
	rm -rf $(@D)
	$(INSTALL) --target $(@D) -r $<
	@printf '*\n' > $(@D)/.gitignore
	@touch $@
