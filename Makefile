# Everything runs in .venv, made on first use. `make test` is the whole gate; CI runs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SYSTEM_UV := $(shell command -v uv 2>/dev/null)
UV := $(or $(SYSTEM_UV),.uv/bin/uv)

# Compiled modules are kept, so that the second start of a command is a fast one.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check types bench clean lowest

demo: $(READY)
	$(BIN)/understudy demo

test: check
	$(BIN)/pytest -q -n 2

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# The fast tests with the lowest versions that pyproject.toml allows, on the oldest Python. Old
# libraries use what newer ones deprecate, so those warnings are no errors here.
LOWEST := .venv-lowest
LOWEST_TESTS ?= src tests

lowest: | $(UV)
	mkdir -p $(LOWEST)
	$(UV) pip compile --quiet --no-header --no-annotate --no-emit-index-url --all-extras \
	  --resolution lowest-direct --python-version 3.11 pyproject.toml --output-file $(LOWEST)/lowest.txt
	$(UV) venv --quiet --allow-existing --python 3.11 $(LOWEST)
	$(UV) pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/lowest.txt \
	  pytest pytest-xdist hypothesis nbclient ipykernel 'tritonclient[http]'
	$(UV) pip install --quiet --python $(LOWEST)/bin/python --no-deps -e .
	$(LOWEST)/bin/pytest -q -n 2 -W ignore::DeprecationWarning $(LOWEST_TESTS)

# The documentation site, in site/.
.PHONY: docs
docs: $(READY)
	$(BIN)/python docs/site/build_site.py

# The notebooks executed anew, with their outputs.
.PHONY: notebooks
notebooks: $(READY)
	$(BIN)/python examples/notebooks/execute.py

# The wheel and the sdist, checked.
.PHONY: dist
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(LOWEST) .uv demo dist site build .cache

$(READY): requirements.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -r requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

# uv where there is none: a private one, in a folder of its own.
.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv

# Pins for reproducible installs; run after changing dependencies.
.PHONY: lock
lock: | $(UV)
	$(UV) pip compile --quiet --no-header --no-emit-index-url --universal --all-extras --group dev --group docs \
	  --python-version 3.11 pyproject.toml --output-file requirements.txt
