# `make help` lists the targets. The two that matter: `make book` and `make test`.
STUDY ?= small
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKED := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps

.PHONY: help setup lock wheel-smoke system book run test lint base serve status clean
help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 13

setup: $(STAMP)  ## Create .venv and install the pinned versions

# Every file is checked against its hash in locks/; torch's CPU build is taken where pip finds it.
$(STAMP): pyproject.toml constraints.txt $(wildcard locks/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11.5 to 3.13 is needed, found $$($(PYTHON) --version); set PYTHON=…"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) -r locks/build.txt
	$(LOCKED) -r locks/torch-cpu.txt 2>/dev/null || $(LOCKED) -r locks/torch.txt
	$(LOCKED) --no-build-isolation -r locks/rest.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/pip check --disable-pip-version-check
	@touch $@

lock:  ## Write the lock files from pyproject.toml and constraints.txt (needs uv)
	$(PYTHON) tools/lock.py $(if $(UPGRADE),--upgrade)

wheel-smoke:  ## Install the built wheel into a clean environment and run the smoke study there
	PYTHON=$(PYTHON) tools/wheel_smoke.sh

system:  ## Install Debian's Chromium and bubblewrap where this user may (for browser tests and a tighter sandbox)
	@if command -v chromium bwrap >/dev/null 2>&1 && [ -n "$$(command -v bwrap)" ] && [ -n "$$(command -v chromium)" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium bubblewrap >/dev/null \
		|| echo "could not install chromium and bubblewrap; the tests that need them will be skipped, with the reason"; \
	else echo "chromium or bubblewrap is missing; the tests that need it will be skipped: apt-get install chromium bubblewrap"; fi

run: setup  ## Run the study's notebooks (STUDY=small)
	$(BIN)/infra run --study $(STUDY)

book: setup  ## Install, run the study, build the book, say where it is (STUDY=small)
	@$(BIN)/infra run --study $(STUDY) --quiet-summary
	@$(BIN)/infra book --study $(STUDY)

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup system lint  ## Lint, types and the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

base: setup  ## Train the base models again (about twelve minutes on two cores)
	$(BIN)/infra run 02 --study $(STUDY) -p retrain_base=true --force

serve: setup  ## Preview the built book on this machine
	$(BIN)/infra serve

status: setup  ## Show what is done and what would run
	$(BIN)/infra status --study $(STUDY)

clean:  ## Remove all results and the built book (not .venv)
	rm -rf _build book/results
