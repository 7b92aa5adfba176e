# A newcomer's two commands: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE # else each command that a test starts compiles the packages anew

# Each worker takes a half of the tests, so that fixtures are built once, and then from the other's half. A third one gains nothing.
WORKERS := -n 2 --dist worksteal

# Where the environments of vLLM, SGLang and llama.cpp are built.
RUNTIMES ?= .venv-runtimes

.PHONY: demo test slow faults test-runtimes docs coverage check static results clean

demo: .venv/.installed
	$(BIN)/python train_router.py demo --out demo

# The tests but for the slow ones, which make slow and make check run.
test: .venv/.installed-dev
	$(BIN)/python -m pytest $(WORKERS) --ignore=tests/faults -m "not slow"

# Bad inputs, kills at every file operation, and kills of training, of collecting and of a server under load.
FAULTS := tests/faults tests/router_rl/serving/test_kill.py \
	tests/router_rl/methods/test_resume.py::test_training_survives_kill_9 \
	tests/experts/llm/test_collecting.py::test_kill_9_loses_no_finished_answer_and_asks_none_twice
faults: .venv/.installed-dev
	$(BIN)/python -m pytest $(WORKERS) $(FAULTS)

# Exports run in vLLM, SGLang and llama.cpp. The first time downloads and builds their environments (2 GB, minutes).
test-runtimes: .venv/.installed-dev
	$(BIN)/python tests/runtimes/environments.py $(RUNTIMES)
	ROUTER_RL_RUNTIMES=$(RUNTIMES) $(BIN)/python -m pytest -n 0 -rs tests/runtimes

# The documentation site, in site/: an error for a broken link, a page left out, or a docstring that cannot be read.
docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The same, and an error where they run fewer lines of the packages than pyproject.toml demands.
coverage: .venv/.installed-dev
	$(BIN)/python -m pytest $(WORKERS) --ignore=tests/faults -m "not slow" --cov --cov-report=term

# What make test leaves out.
slow: .venv/.installed-dev
	$(BIN)/python -m pytest $(WORKERS) --ignore=tests/faults -m slow

# What a change must pass: formatting, lint, types, the import contract, all tests, coverage, faults.
check: static coverage slow faults

# Measures the published tables that are stale again, for hours; make results DATA=FOLDER with the real tables.
results: .venv/.installed-dev
	$(BIN)/python benchmarks/results.py --run true $(if $(DATA),--data $(DATA))

static: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("router-rl needs Python 3.10 or newer: make PYTHON=python3.x" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv (torch is large: a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv (torch is large: a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	@touch $@ .venv/.installed

clean:
	rm -rf .venv .nox .coverage demo runs build dist site *.egg-info
