# Every command of the project. Needs python3, git and make; everything else is installed into .venv by the first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GEN := clients/python/gen

.PHONY: install generate check-generated

install: $(VENV)/.installed

$(VENV)/.installed: requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# Wire types of every language; one whose tools are missing is skipped, and that is said.
generate: install
	BIN=$(BIN) scripts/generate.sh

# Fails with one line a language when generated code is not what protos/ gives.
check-generated: install
	BIN=$(BIN) scripts/check_generated.sh
