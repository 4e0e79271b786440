# make reproduce: the figures and numbers of every notebook. make check: the fast tests. make test: all of them.
# make help: the rest.

PYTHON ?= python3
JOBS ?= 2
# More arguments for pip when it installs torch, such as another index that offers the CPU build.
TORCH_PIP_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# The environment is whole when its marker is there. The marker is written last, and its name holds the lock, the
# Python, the place and the recipe that the environment was made with: when one changes, it is made anew. No file times.
MARKER := $(VENV)/ready-$(shell { cat requirements.lock; $(PYTHON) -VV; pwd; sed -n '/^.(MARKER):/,/^$$/p' Makefile; } \
	| $(PYTHON) -c \
	"import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])")
# Files of tests go to workers in the order that conftest.py gives them.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) \
	--dist loadscope --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq

.DEFAULT_GOAL := help
.PHONY: help reproduce check test lab smoke seeds lint readme clean browser-test lock

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

reproduce: $(MARKER)  ## run every notebook; writes notebooks/*.ipynb, figures/ and the README's table
	@$(BIN)/python -m fwdiff_lite.pipeline.reproduce --jobs $(JOBS)

check: $(MARKER)  ## the tests that take seconds each, for daily work: at most three minutes
	@$(PYTEST) -m "not slow" tests

test: $(MARKER)  ## all tests, and every notebook run again and compared with what is committed
	@$(PYTEST) --nbval --nbval-current-env --nbval-cell-timeout 900 --nbval-sanitize-with tests/notebooks/nbval.cfg \
		tests notebooks

lab: $(MARKER)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_one_page.ipynb

smoke: $(MARKER)  ## run every notebook in seconds, into build/smoke
	@$(BIN)/python -m fwdiff_lite.pipeline.reproduce --profile smoke --jobs $(JOBS)

seeds: $(MARKER)  ## train 01, 02, 05 and 08 with five seeds: figures/seeds.json, the ranges in the README
	@$(BIN)/python -m fwdiff_lite.pipeline.seeds --jobs $(JOBS) $(foreach n,01 02 05 08,--only $(n))

lint: $(MARKER)  ## ruff
	@$(BIN)/ruff check .

readme: $(MARKER)  ## renew the generated parts of the README, and the durations of the last `make test`
	@$(BIN)/python -m fwdiff_lite.pipeline.reproduce --readme

browser-test: $(MARKER)  ## install Chromium (Debian), open every notebook in it and move every slider
	@command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	@FWDIFF_EVERY_SLIDER=1 $(BIN)/python -m pytest -q tests/browser

clean:  ## remove everything that make made, but for the results
	@rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first: it settles which build, and the rest then finds its need met.
$(MARKER):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'fwdiff-lite needs Python 3.11 or newer: make PYTHON=...')"
	@echo "making $(VENV) from requirements.lock (about two minutes)"
	@rm -rf $(VENV)
	@start=$$(date +%s) && $(PYTHON) -m venv $(VENV) \
	&& $(PIP) install $(TORCH_PIP_ARGS) $$(grep '^torch==' requirements.lock) \
	&& $(PIP) install -r requirements.lock \
	&& $(PIP) install --no-deps --no-build-isolation -e . \
	&& $(BIN)/python -m fwdiff_lite.pipeline.contents \
	&& $(PIP) check \
	&& echo $$(($$(date +%s) - start)) > $@

# Resolves pyproject's ranges anew, in an environment of its own. Without local version tags, which no index offers.
lock:
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@torch=$$(grep -o '^torch==.*' requirements.lock) && build/lock/bin/python -m pip install -qq $(TORCH_PIP_ARGS) $$torch
	@build/lock/bin/python -m pip install -qq setuptools && build/lock/bin/python -m pip install -qq '.[notebooks,dev]'
	@{ sed -n '/^#/p' requirements.lock; build/lock/bin/python -m pip freeze --all --exclude fwdiff-lite --exclude pip \
	| sed 's/+[a-z0-9.]*$$//'; } > build/lock/requirements.lock && mv build/lock/requirements.lock requirements.lock
	@rm -rf build/lock
