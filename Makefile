# `make help` lists the targets. The two that matter: `make book` and `make test`.
STUDY ?= small
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup system book run test lint base serve status clean verify reliability faults
help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## Create .venv and install the pinned versions

# torch goes first, by its own pin, so that no later package picks another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); set PYTHON=…"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'
	@touch $@

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

reliability: setup system  ## Run the tests of faults, bad input and attacks, and record what came of them
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup -m reliability --record-reliability

FAULTS ?= 20
faults: setup  ## Kill the smoke study FAULTS more times at random moments (FAULTS=20)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/notebooks/test_faults.py -k random_moment --faults $(FAULTS) -s

verify: setup  ## Check every result, record and page against its checksum
	$(BIN)/infra verify --study $(STUDY)

base: setup  ## Train the base models again (about twelve minutes on two cores)
	$(BIN)/infra run 02 --study $(STUDY) -p retrain_base=true --force
	$(BIN)/infra verify --study $(STUDY) --update-records

serve: setup  ## Preview the built book on this machine
	$(BIN)/infra serve

status: setup  ## Show what is done and what would run
	$(BIN)/infra status --study $(STUDY)

clean:  ## Remove all results and the built book (not .venv)
	rm -rf _build book/results
