# `make test` checks the project, `make demo` shows it work. Both install it first, into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := .anodiff
# A file's tests share what they set up, so one process does them all; the longest files first (tests/conftest.py).
BY_FILE := --dist loadfile --no-loadscope-reorder

.PHONY: test unit demo services-test docs check lint lock clean mini evaluate

test: $(INSTALLED)  ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 $(BY_FILE)

unit: $(INSTALLED)  ## the suite without whole runs (tests/flows): for every commit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(BY_FILE) --ignore tests/flows

demo: $(INSTALLED)  ## the whole chain on drawn parts; a second time everything is found done
	$(BIN)/anodiff data demo $(DEMO)/demo-data --categories leather
	$(BIN)/anodiff run --config demo --data $(DEMO)/demo-data --store $(DEMO)/store

services-test: $(INSTALLED)  ## what takes minutes: schedules, several workers, signals, the services of docker-compose.yml
	$(BIN)/python -m pytest -m stack -n0

docs: $(INSTALLED)  ## the manual as a site, in .anodiff/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(INSTALLED)  ## what a commit must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint: $(INSTALLED)  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(BIN)/uv  ## resolve the dependencies anew
	$(BIN)/uv pip compile --universal --python-version 3.11 pyproject.toml --group dev --extra tracking --extra review \
		--no-annotate --no-header -o requirements.lock

mini: $(INSTALLED)  ## make the bundled base anew: 25 minutes on a GPU, hours on a CPU; goes on where it was stopped
	$(BIN)/python -m dual_anodiff.pretrain train --work $(DEMO)/pretrain --out dual_anodiff/mini

evaluate: $(INSTALLED)  ## the figures of the bundled base, and picture sheets, in .anodiff/evaluate
	$(BIN)/python -m dual_anodiff.pretrain evaluate --out $(DEMO)/evaluate

clean:  ## remove the demo's data and results, not the installation
	rm -rf $(DEMO)/demo-data $(DEMO)/store

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps -e .
	touch $@
