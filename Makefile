# Everything runs in a virtual environment of its own, made at the first call. `make VENV=path` uses another one.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin

# torch works on one thread per process: the tests run on all cores at once, and sums stay the same everywhere.
export OMP_NUM_THREADS ?= 1

.PHONY: dev lint test corpus fixtures bench mutants promises docs site

dev: $(VENV)/.dev

# torch goes first and alone, so that nothing else's wider requirement can pull a CUDA build.
# The stamp says that all of it is there: an environment with ckdoc alone would not do. An installation remembers its
# version, so a new one in `__init__.py` needs a new installation.
$(VENV)/.dev: pyproject.toml constraints.txt checkpoint_doctor/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

test: dev
	$(RUN)/python -m pytest -q -n 2

# The published checkpoints that some tests and benchmarks read; the standard library is enough.
corpus:
	$(PYTHON) -m tests.fetch_corpus

fixtures: dev
	$(RUN)/python -m fixtures.generate

bench: dev
	$(RUN)/python -m benchmarks.faults
	$(RUN)/python -m benchmarks.healthy
	$(RUN)/python -m benchmarks.speed

# For maintainers, after work on rules, exit codes or repairs: breaks them in 150 places and asks which breaks no test
# notices. It takes a quarter of an hour; MUTANTS="--module checkpoint_doctor/analyzers --count 50" asks about a part.
mutants: dev
	$(RUN)/python -m benchmarks.mutants $(MUTANTS)

# Breaks seven promises on purpose and checks that the tests notice each; about two minutes.
promises: dev
	$(RUN)/python -m benchmarks.promises

docs: dev
	$(RUN)/python docs/generate.py

# Without --quiet, which would hide the warnings from --strict as well.
site: dev
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict
