# The environment is .venv; everything that is made goes to _build.  `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PY := .venv/bin/python
PYTEST := $(PY) -m pytest
NOTEBOOK_TESTS := tests/test_notebooks.py tests/test_exercises.py
# One thread a worker: two workers on two cores, and the same sums in the same order everywhere.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: help env book site test lint unit run-notebooks site-tests notebooks nightly lock vendor clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

env: .venv/.installed ## make .venv and install everything into it

.venv/.installed: pyproject.toml constraints.txt tools/env.sh
	@echo "== the environment"
	tools/env.sh
	@touch $@

book: env notebooks ## execute what has changed, build the HTML, say where it is
	@echo "== the chapters, each executed where it or what it uses has changed"
	$(PYTEST) -n 2 -v tests/test_notebooks.py -k executes
	@$(MAKE) --no-print-directory site

site: env ## build the HTML from the executed chapters
	@echo "== the site, warnings as errors"
	$(PY) tools/book.py build

test: lint unit run-notebooks site-tests ## lint, the package's tests, every chapter, the built site
	@echo "== all passed"

lint: env ## ruff and mypy
	@echo "== lint and types"
	$(PY) -m ruff check
	$(PY) -m ruff format --check --exclude '*.ipynb'
	$(PY) -m mypy

unit: env ## the tests of the package and of the tools
	@echo "== the package"
	$(PYTEST) -n 2 --durations=5 -m "not slow and not site" $(addprefix --ignore=,$(NOTEBOOK_TESTS))

run-notebooks: env ## every chapter with nbmake, its exercises, its form
	@echo "== the chapters"
	$(PYTEST) -n 2 -v $(NOTEBOOK_TESTS)

site-tests: site ## look at the built pages in a browser
	@echo "== the site in a browser"
	$(PYTEST) -n 2 -m site tests/test_site.py

notebooks: env ## write each chapter's .ipynb from its .md
	$(PY) tools/book.py notebooks

nightly: env ## what is too slow for every time; writes tests/nightly.json
	$(PY) tools/nightly.py

lock: env ## write constraints.txt from what is installed in .venv
	$(PY) tools/lock.py

vendor: env ## fetch the page scripts of the book again, checked by sha256
	$(PY) tools/vendor.py

clean: ## remove _build and caches; keep .venv
	rm -rf _build .mypy_cache .ruff_cache
