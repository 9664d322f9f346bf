# Every command of the project. Needs python3 (3.11 or later), git and make; everything else is installed into .venv by
# the first call. `make help` lists the commands.
PYTHON ?= python3
VENV := .venv
# Of clients that others wrote, which are too large for everybody.
JUDGES := .venv-judges
BIN := $(VENV)/bin
# Two test processes: the machines that this project is built on have two cores, and more would only disturb the tests
# that watch deadlines.
TEST_PROCESSES ?= 2
# Cases of each property of the core in `make test`, and of those of scheduling, which are cheap to try.
CASES ?= 100
SCHEDULING_CASES ?= 500
# Cases of each property of scheduling in `make nightly`.
NIGHTLY_CASES ?= 10000

# Hundreds of services are started by the tests: where images set this, each would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo up test judges nightly soak check lint lint-style lint-types lint-imports lint-protos bench \
	lint-security lint-docs docs docs-serve reference generate check-generated check-contract contract-image lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

# --- Try it ---
demo: $(VENV)/.installed-demo ## install, run the whole stack once with a real model, show one job, stop
	$(BIN)/python scripts/demo.py

up: $(VENV)/.installed-demo ## the same stack, kept running until Ctrl-C
	$(BIN)/beeyard up

# --- Work on it ---
install: $(VENV)/.installed ## everything that a contributor needs, into .venv

test: lint ## everything that a contributor must pass
	$(BIN)/pytest -n $(TEST_PROCESSES) tests/core tests/scenarios --quiet --cov --cov-report=term
	BEEYARD_CASES=$(CASES) BEEYARD_SCHEDULING_CASES=$(SCHEDULING_CASES) $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile \
		--no-loadscope-reorder \
		--durations=30 --durations-min=5

judges: install $(JUDGES)/.installed ## LiteLLM and LangChain against the gateway, out of an environment of their own
	$(JUDGES)/bin/python scripts/check_licences.py judges.lock
	BEEYARD_JUDGES=$(abspath $(JUDGES))/bin/python $(BIN)/pytest tests/e2e/test_judges.py

soak: install ## the same faults, for hours and by the thousand
	BEEYARD_SOAK=1 $(BIN)/pytest -m soak --ignore=tests/simulation
	BEEYARD_SOAK=1 $(BIN)/pytest -m soak -n $(TEST_PROCESSES) tests/simulation

nightly: install ## what scheduling promises, on many more cases than in `make test`; takes long
	BEEYARD_SCHEDULING_CASES=$(NIGHTLY_CASES) BEEYARD_CASES=$(NIGHTLY_CASES) $(BIN)/pytest \
		tests/core/test_scheduling_properties.py tests/core/test_scaling_properties.py --durations=0 --timeout=0

check: lint ## the static checks and the style tests
	$(BIN)/pytest tests/style --quiet

# One target a tool, so that `make -k check` shows all that is wrong at once.
lint: lint-style lint-types lint-imports lint-protos lint-security lint-docs check-generated check-contract

lint-style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: install
	$(BIN)/mypy

lint-imports: install
	$(BIN)/lint-imports --no-logo

lint-protos: install
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

lint-security: install
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive services clients/python/src
	$(BIN)/python scripts/check_licences.py

# The site is built to see that it can be: a link that leads nowhere fails.
lint-docs: docs

# --- Read about it ---
reference: install ## the pages that are drawn from code; a test says when they are stale
	for script in commands policy_functions protos reasons rights settings states; do \
		$(BIN)/python scripts/draw_$$script.py || exit 1; done
	$(BIN)/python scripts/metrics_table.py

docs: install ## the documentation site, into build/site/html
	$(BIN)/python scripts/build_site.py

docs-serve: docs ## the same, on http://127.0.0.1:8000 until Ctrl-C
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site/html 8000

bench: install ## the figures, each beside its control; writes benchmarks/out/latest.json
	$(BIN)/python -m benchmarks

# --- The contract ---
# Wire types of every language; one whose tools are missing is skipped, and that is said.
generate: install ## protos -> Python, Go and TypeScript types
	BIN=$(BIN) scripts/generate.sh

# Fails with one line a language when generated code is not what protos/ gives.
check-generated: install
	BIN=$(BIN) scripts/check_generated.sh

# Against the image of the last release and not against a branch: a fresh or a shallow clone has no branch to compare
# with, and what peers in the field speak is what was released.
check-contract: install
	$(BIN)/buf breaking --against protos/released/v1.binpb

contract-image: install ## at a release: the contract that later changes must not break
	mkdir -p protos/released
	$(BIN)/buf build --exclude-source-info -o protos/released/v1.binpb

# --- Housekeeping ---
lock: install ## pin the newest versions that pyproject.toml allows, with their hashes
	BIN=$(BIN) scripts/lock.sh

clean: ## remove what the other commands made
	rm -rf $(VENV) $(JUDGES) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage benchmarks/out build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements/dev.lock requirements/bootstrap.lock pyproject.toml scripts/install.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) scripts/install.sh requirements/dev.lock
	@touch $@

# What the demo needs and no development tool; a venv that has those already keeps them.
$(VENV)/.installed-demo: requirements/demo.lock requirements/bootstrap.lock pyproject.toml scripts/install.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) scripts/install.sh requirements/demo.lock
	@touch $@

$(JUDGES)/.installed: requirements/judges.lock $(VENV)/.installed
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(JUDGES)
	$(BIN)/uv pip install --quiet --system-certs --link-mode copy --python $(JUDGES)/bin/python --require-hashes \
		-r requirements/judges.lock
	@touch $@
