# Every command of the project. Needs python3, git and make; everything else is installed into .venv by the first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GEN := clients/python/gen

.PHONY: install generate

install: $(VENV)/.installed

$(VENV)/.installed: requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

generate: install
	rm -rf $(GEN)/beeyard
	mkdir -p $(GEN)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(GEN) \
	  --grpc_python_out=$(GEN) --mypy_out=$(GEN) --mypy_grpc_out=$(GEN) $$(find protos -name '*.proto' | sort)
	find $(GEN)/beeyard -type d -exec touch {}/__init__.py \;
	touch $(GEN)/beeyard/py.typed
