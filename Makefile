# make demo: everything from nothing.  make test: everything tested.  make down: stop everything.
# Nothing is installed outside this folder; PYTHON=/path/to/python3.11 chooses the interpreter.

SHELL := /bin/bash
ifeq ($(origin PYTHON), undefined)
PYTHON := $(or $(shell for python in python3.11 python3.12 python3; do \
  $$python -c '' 2>/dev/null && echo $$python && break; done), python3)
endif
PAGODA := .venv/bin/pagoda
PYTEST := .venv/bin/python -m pytest
FAST := not spark and not servers and not airflow and not browser

.PHONY: setup demo down test check mutate peers lint clean prerequisites

demo: setup
	@$(PAGODA) demo

down:
	@if [ -x $(PAGODA) ]; then $(PAGODA) down; fi

test: setup lint
	@$(PYTEST) -n 2

check: setup lint
	@$(PYTEST) -m "$(FAST)"

mutate: setup
	@.venv/bin/python -m tests.mutation
	@$(PYTEST) -q --tb=line tests/features/mutants_of_sql.py

lint:
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

# Projects that `pagoda bench train` measures beside Pagoda. No other command and no test needs them.
peers: prerequisites .venv-peers/.complete

clean: down
	rm -rf .venv .venv-airflow .venv-peers .venv-uv .pytest_cache .mypy_cache .ruff_cache .hypothesis artefacts mutants
	@echo "Data and models are kept in $${PAGODA_HOME:-.pagoda}: delete that folder yourself."

# Environments ------------------------------------------------------------------------------------

setup: prerequisites
	@$(MAKE) --silent -j2 .venv/.complete .venv-airflow/.complete
	@done="$${PAGODA_HOME:-.pagoda}/jars/.complete"; \
	[ "$$done" -nt requirements/jars.lock ] && [ "$$done" -nt .venv/.complete ] || { \
	  echo "· jars of Spark and Kafka"; $(PAGODA) jars && touch "$$done"; }

prerequisites:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || { \
	  echo "error: Pagoda needs Python 3.11 or 3.12; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there)."; \
	  echo "  Install it (Debian/Ubuntu: apt install python3.11 python3.11-venv; or pyenv, conda),"; \
	  echo "  then: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make environments: its venv module is missing."; \
	  echo "  Debian/Ubuntu: apt install python3.11-venv"; exit 3; }
	@java="$${JAVA_HOME:+$$JAVA_HOME/bin/}java"; \
	found=$$("$$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1); \
	case "$$found" in 17|21) ;; *) \
	  echo "error: Spark and Kafka need Java 17 or 21; '$$java' is $${found:-not there}."; \
	  echo "  Debian/Ubuntu: apt install openjdk-17-jre-headless; without root: unpack a JDK 17"; \
	  echo "  (for example Temurin) anywhere and set JAVA_HOME to its folder."; exit 3;; esac

.venv-uv/bin/uv: requirements/uv.lock
	@echo "· installer"
	@$(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.venv/.complete: requirements/platform.lock pyproject.toml .venv-uv/bin/uv
	@echo "· platform environment (some 2.5 GB the first time; cached afterwards)"
	@.venv-uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv
	@[ -t 2 ] || quiet=--quiet; VIRTUAL_ENV=$(CURDIR)/.venv .venv-uv/bin/uv pip sync $$quiet --compile-bytecode --require-hashes $<
	@VIRTUAL_ENV=$(CURDIR)/.venv .venv-uv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv-airflow/.complete: requirements/airflow.lock .venv-uv/bin/uv
	@echo "· Airflow's environment"
	@.venv-uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv-airflow
	@VIRTUAL_ENV=$(CURDIR)/.venv-airflow .venv-uv/bin/uv pip sync --quiet --compile-bytecode --require-hashes $<
	@touch $@

.venv-peers/.complete: requirements/peers.lock .venv-uv/bin/uv
	@echo "· peers' environment"
	@.venv-uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv-peers
	@VIRTUAL_ENV=$(CURDIR)/.venv-peers .venv-uv/bin/uv pip sync --quiet --compile-bytecode --require-hashes $<
	@touch $@
