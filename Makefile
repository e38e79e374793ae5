# Each target sets up what it needs: a virtual environment in .venv, and the packages that constraints.txt pins.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt

PARALLEL := --numprocesses auto --dist worksteal
# To collect the other files takes longer than a test.
CLUSTER_FILES = $(shell grep --recursive --files-with-matches --include='test_*.py' 'mark\.cluster' tests)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-cluster gpu torture fuzz coverage check format docs audit clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.installed  ## draw a small dataset, embed, rank and query it (a few minutes with the install)
	.venv/bin/clipstore demo demo
	@echo 'To type these commands yourself: source .venv/bin/activate'

test: .venv/.installed-dev  ## run the tests in their short forms on all cores (minutes)
	.venv/bin/pytest -m "not full and not cluster" $(PARALLEL)

test-cluster: .venv/.installed-dev  ## run the tests with nodes in network namespaces, as root (minutes)
	.venv/bin/pytest -m cluster --numprocesses 2 --dist loadfile $(CLUSTER_FILES)

test-all: .venv/.installed-dev  ## run every test in full size; those that measure run alone, one after another
	.venv/bin/pytest -m "not full and not cluster" --hypothesis-profile full $(PARALLEL)
	.venv/bin/pytest -m full --hypothesis-profile full

gpu: .venv/.installed-dev  ## run the tests and benchmarks of a GPU, and write docs/measured/gpu-NAME.md
	PYTHONPATH=tests .venv/bin/python -m gpu

torture: .venv/.installed-dev  ## attack stores: kills, damage, full disks, signals; COUNT attacks of each kind
	PYTHONPATH=tests .venv/bin/python -m torture --count $(or $(COUNT),20) $(if $(SEED),--seed $(SEED))

fuzz: .venv/.installed-dev  ## fuzz what reads files of others, SECONDS for each target
	PYTHONPATH=tests .venv/bin/python -m fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

coverage: .venv/.installed-dev  ## run the tests in their short forms; the lines that they do not reach
	.venv/bin/pytest -m "not full and not cluster" $(PARALLEL) --cov=clipstore --cov-report=term-missing:skip-covered

check: .venv/.installed-dev  ## ruff, mypy --strict, import-linter
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/.installed-dev  ## format the code and apply automatic fixes
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: .venv/.installed-docs  ## build the documentation into docs/_build/html; a warning or broken link fails
	.venv/bin/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html
	@echo 'Open docs/_build/html/index.html in a browser'

audit: .venv/bin/pip  ## check the pinned packages for known vulnerabilities (error 4: the data cannot be had)
	.venv/bin/python tools/audit.py

clean:  ## remove the virtual environment, the demo, the built documentation and tool caches
	rm -rf .venv .audit demo dist docs/_build docs/_generated .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/pip pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/.installed-docs: .venv/.installed
	$(PIP) --editable '.[docs]'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable '.[dev]'
	touch $@
