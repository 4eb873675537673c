# `make help` lists the targets. The two that matter: `make book` and `make test`.
STUDY ?= small
SANDBOX ?= auto
OPTIONS := $(if $(filter process,$(SANDBOX)),-p sandbox=process)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKED := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps

PEERS := $(VENV)/.peers

.PHONY: record help setup peers benchmark gpu lock wheel-smoke system sandbox book run test lint base links archive readme serve status clean verify reliability faults
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
	@$(BIN)/pip uninstall --quiet --yes kronfluence bergson 2>/dev/null || true  # `make peers` brings them back
	$(BIN)/pip check --disable-pip-version-check
	@touch $@

# Both declare torchvision, which they never import and which would bring another torch: no dependencies.
peers: $(PEERS)  ## Install kronfluence and bergson, which tests and benchmarks compare with
$(PEERS): $(STAMP) locks/peers.txt
	$(LOCKED) -r locks/peers.txt
	@touch $@

benchmark: setup peers  ## Measure speed and memory beside kronfluence, bergson and trak (about twenty minutes)
	$(BIN)/python -m benchmarks.attribution
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.compiled

gpu:  ## Measure on a GPU beside kronfluence, and record it (PYTHON of an environment with CUDA)
	$(PYTHON) -m benchmarks.gpu
	$(PYTHON) -m benchmarks.partition
	$(PYTHON) -m benchmarks.partition --plan records/gpu/partition.json

lock:  ## Write the lock files from pyproject.toml and constraints.txt (needs uv)
	$(PYTHON) tools/lock.py $(if $(UPGRADE),--upgrade)

wheel-smoke:  ## Install the built wheel into a clean environment and run the smoke study there
	PYTHON=$(PYTHON) tools/wheel_smoke.sh

# Packages of the system are installed by root, or by sudo where it asks for no password; never otherwise.
SUDO := $(shell [ "$$(id -u)" = 0 ] || ! sudo -n true 2>/dev/null || echo sudo -n)
MAY_INSTALL = command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$(SUDO)" ]; }
APT = $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq

system:  ## Install Debian's Chromium and bubblewrap where this user may (for the tests)
	@if command -v chromium >/dev/null && command -v bwrap >/dev/null; then :; \
	elif $(MAY_INSTALL); then $(APT) chromium bubblewrap >/dev/null \
		|| echo "could not install chromium and bubblewrap; the tests that need them will be skipped, with the reason"; \
	else echo "chromium or bubblewrap is missing; the tests that need it will be skipped: sudo apt-get install -y chromium bubblewrap"; fi

sandbox:  ## Install bubblewrap where this user may, or stop and say what to type (SANDBOX=process does without)
	@[ "$(SANDBOX)" = process ] || command -v bwrap >/dev/null || { $(MAY_INSTALL) && $(APT) bubblewrap >/dev/null; } || \
		{ echo "Programs that a model wrote run in a sandbox only, and bubblewrap is not installed. Type this, then make again:"; \
		echo "  sudo apt-get install -y bubblewrap      (dnf, pacman, zypper and apk call it bubblewrap too)"; exit 2; }
	@[ "$(SANDBOX)" = process ] || bwrap --unshare-pid --unshare-net --ro-bind / / true || \
		{ echo "bubblewrap is installed and does not work here: user namespaces are not allowed, as in most containers."; \
		echo "Ubuntu allows them after: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"; \
		echo "Run where they are allowed, or accept plain processes with limits: make book SANDBOX=process"; exit 2; }

run: sandbox setup  ## Run the study's notebooks (STUDY=small)
	$(BIN)/infra run --study $(STUDY) $(OPTIONS)

book: sandbox setup  ## Install, run the study, build the book, say where it is (STUDY=small)
	@$(BIN)/infra run --study $(STUDY) $(OPTIONS) --quiet-summary
	@$(BIN)/infra book --study $(STUDY)

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup peers system lint  ## Lint, types and the whole test suite
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

links: setup  ## Check every link of the built book; those that lead out need the network
	$(BIN)/python tools/check_links.py --external

archive: setup  ## Pack the built book and its results with a manifest
	$(BIN)/python tools/archive_book.py

readme: setup system  ## Write the README's table of claims and its pictures from the built book (STUDY=small)
	$(BIN)/python tools/readme_claims.py --study $(STUDY)
	$(BIN)/python tools/readme_picture.py

serve: setup  ## Preview the built book on this machine
	$(BIN)/infra serve

# On a GPU: WITH names the Python of an environment that has this package and CUDA, and nothing is set up.
record: $(if $(WITH),,setup)  ## Run a study and keep it under records/ (STUDY=full NOTEBOOKS=09 OUT=records/… WITH=python)
	$(or $(WITH),$(BIN)/python) -m infra_lib.cli record $(NOTEBOOKS) --study $(STUDY) $(if $(OUT),--out $(OUT))

status: setup  ## Show what is done and what would run
	$(BIN)/infra status --study $(STUDY)

clean:  ## Remove all results and the built book (not .venv)
	rm -rf _build book/results
