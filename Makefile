# make demo         venv, install, train two modules on the built-in data, print the table, name the pictures
# make test         venv, install, lint, types, layers, and the quick tests
# make test-all     the same, plus every other kind: processes, compilers, Chromium, a SLURM cluster, times
# make test-lowest  a venv with the lowest versions that pyproject.toml promises, and the quick and slow tests
#                   (Python 3.11 or 3.12: the lowest versions have no builds for newer ones)

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
BIN = $(VENV)/bin
LOWEST = $(VENV)-lowest
PARALLEL = -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all test-lowest lint clean

demo: $(BIN)/attnbench
	$(BIN)/attnbench run --recipe demo --modules sga,scft --datasets synthetic --output results/demo

test: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not (browser or cluster or perf or process or slow)"

# Times are compared last, with the machine to themselves.
test-all: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not perf"
	$(BIN)/python -m pytest -m perf

# Old versions beside newer ones raise deprecation warnings that are not ours.
test-lowest: $(LOWEST)/.dev
	$(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not (browser or cluster or perf or process)" -W default::DeprecationWarning

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/attnbench: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/attnbench
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

# pip has no resolver for lowest versions; uv has.
$(LOWEST)/.dev: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/python -m uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) results/demo
