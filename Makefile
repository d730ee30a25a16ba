VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
DATA ?=
OUT ?= demo-out
WORKERS ?= 2
THREADS ?= 1
COUNT ?= 60
SEED ?= 1
# Bytecode is kept whatever the environment says: the tests start hundreds of processes that would each compile the package.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -q --durations=10 -n $(WORKERS) --dist loadfile

.PHONY: help setup demo test test-fast test-slow test-lowest check mutate fmt dist bench docs notebooks clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 12

setup: $(VENV)/.done   ## install everything into .venv (once)

# Two stamps: the demo needs neither the service nor what tests and checks.
$(VENV)/.done: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) .ci/install $(VENV) dev,docs && touch $(VENV)/.demo $@

$(VENV)/.demo: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) .ci/install $(VENV) train,report && touch $@

demo: $(VENV)/.demo ## the whole job in minutes on synthetic faces; DATA=DIR for real ones
	@$(BIN)/normface demo --out $(OUT) $(if $(DATA),--data $(DATA))

test: setup      ## every test, real faces included where ../shared/data or NORMFACE_DATA exists; WORKERS=2 THREADS=1
	@$(PYTEST)

test-fast: setup ## the tests that take no training and no photographs
	@$(PYTEST) -m "not slow and not real and not nightly"

test-slow: setup ## the simulations of minutes, such as coverage of intervals; run them every night
	@$(PYTEST) -m nightly

test-lowest:     ## the fast tests with the lowest versions that pyproject.toml allows, in an environment of their own
	@LOWEST=1 PYTHON=$(PYTHON) .ci/install build/lowest dev
	@OMP_NUM_THREADS=$(THREADS) build/lowest/bin/python -m pytest -q -m "not slow and not real and not nightly"

check: setup     ## ruff, mypy strict (also for Windows and macOS), import layers, docstrings, the words of the pages, spelling
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
	@$(BIN)/interrogate src/normface && $(BIN)/python -m tests.house.prose
	@$(BIN)/codespell src tests benchmarks docs examples deploy *.md Makefile pyproject.toml
	@for platform in win32 darwin; do \
	  $(BIN)/mypy --platform $$platform --cache-dir .mypy_cache/$$platform src/normface || exit 1; done
	@find src -name '*.py' | xargs wc -l | awk '$$2 != "total" && $$1 > 400 {print "advice: " $$2 " has " $$1 " lines: does it hold one idea?"}'

mutate: setup    ## how many faults, put in one at a time, the tests notice; COUNT=60 SEED=1
	@PYTHON=$(PYTHON) .ci/install $(VENV) mutation
	@rm -rf mutants && OMP_NUM_THREADS=$(THREADS) $(BIN)/python .ci/mutate $(COUNT) $(SEED)

fmt: setup       ## format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

dist: setup      ## wheel and sdist into dist/, checked
	@rm -rf dist && $(BIN)/python -m build && $(BIN)/twine check --strict dist/*

bench: setup     ## measure: make bench NAME=training
	@$(BIN)/python -m benchmarks $(NAME)

docs: setup      ## the documentation site into build/site; it needs no network to be read
	@$(BIN)/typer normface.cli utils docs --name normface --title "All options" --output docs/cli-options.md >/dev/null
	@$(BIN)/jupyter nbconvert --log-level ERROR --to markdown docs/notebooks/*.ipynb
	@$(BIN)/zensical build --strict && echo "open build/site/index.html"

notebooks: setup ## run the notebooks and keep their output
	@$(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace docs/notebooks/*.ipynb

clean:           ## remove what was built
	rm -rf $(VENV) build mutants dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
