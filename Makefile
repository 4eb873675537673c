# `make help` lists the targets. The two that matter: `make book` and `make test`.
STUDY ?= small
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

PEERS := $(VENV)/.peers

.PHONY: help setup peers benchmark system book run test lint base serve status clean
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

# kronfluence declares torchvision, which it never imports and which would bring another torch: no dependencies.
peers: $(PEERS)  ## Install kronfluence, which tests and benchmarks compare with
$(PEERS): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt kronfluence einconv einops opt_einsum
	@touch $@

benchmark: setup peers  ## Measure speed and memory beside kronfluence and trak (about eight minutes)
	$(BIN)/python -m benchmarks.attribution
	$(BIN)/python -m benchmarks.cost

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

test: setup peers system lint  ## Lint, types and the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

base: setup  ## Train the base models again (about twelve minutes on two cores)
	$(BIN)/infra run 02 --study $(STUDY) -p retrain_base=true --force

serve: setup  ## Preview the built book on this machine
	$(BIN)/infra serve

status: setup  ## Show what is done and what would run
	$(BIN)/infra status --study $(STUDY)

clean:  ## Remove all results and the built book (not .venv)
	rm -rf _build book/results
