VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
DATA ?=
OUT ?= demo-out

.PHONY: help setup demo test test-fast check fmt bench docs notebooks clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 12

setup: $(VENV)/.done   ## install everything into .venv (once)

# Registries fail now and then: three tries. The constraints keep torch at its CPU build.
$(VENV)/.done: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@for try in 1 2 3; do \
	  echo "installing into $(VENV) (try $$try of 3, a minute or two) …"; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --retries 5 -c constraints.txt -e '.[train,report,figures,gallery,serve,ray,dev]' \
	    && touch $@ && exit 0; sleep 5; done; echo "installation failed three times: see the messages above"; exit 1

demo: setup      ## the whole job in minutes on synthetic faces; DATA=DIR for real ones
	@$(BIN)/normface demo --out $(OUT) $(if $(DATA),--data $(DATA))

test: setup      ## every test, real faces included where ../shared/data or NORMFACE_DATA exists
	@$(BIN)/python -m pytest -q --durations=10

test-fast: setup ## the tests that take no training and no photographs
	@$(BIN)/python -m pytest -q -m "not slow and not real"

check: setup     ## ruff, mypy strict, the floors
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

fmt: setup       ## format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: setup     ## measure: make bench NAME=training
	@$(BIN)/python -m benchmarks $(NAME)

docs: $(VENV)/.docs ## the documentation site into build/site; it needs no network to be read
	@$(BIN)/typer normface.cli utils docs --name normface --title "All options" --output docs/cli-options.md >/dev/null
	@$(BIN)/jupyter nbconvert --log-level ERROR --to markdown docs/notebooks/*.ipynb
	@$(BIN)/zensical build --strict && echo "open build/site/index.html"

notebooks: setup $(VENV)/.docs ## run the notebooks and keep their output
	@$(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace docs/notebooks/*.ipynb

$(VENV)/.docs: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what builds the documentation into $(VENV) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --retries 5 -c constraints.txt -e '.[docs]' && touch $@

clean:           ## remove what was built
	rm -rf $(VENV) build demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
