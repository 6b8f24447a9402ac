# mvad: what a contributor types. `make` alone prints this list.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
EXTRAS := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[benchmark]"
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadgroup
export OMP_NUM_THREADS ?= $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: setup demo test test-thorough lint type benchmark benchmark-full benchmark-chain benchmark-render benchmark-shards benchmark-train benchmark-metrics benchmark-accuracy benchmark-gpu verify clean help

setup: $(VENV)/.installed ## make .venv and install everything, system libraries where that is allowed
	@$(BIN)/mvad --version

$(VENV)/.installed: pyproject.toml constraints.txt tools/system_libraries.sh
	@bash tools/system_libraries.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[teacher,dev]"
	@touch $@

demo: setup ## generate, render, pack, train, evaluate and report on small data, in minutes
	@MVAD=$(BIN)/mvad bash tools/demo.sh $(DEMO)

test: setup ## run the tests (MVAD_REAL_DATA adds those on real scans; Chromium, where it can be installed, those of the page)
	@bash tools/system_libraries.sh browser
	$(PYTEST)

test-thorough: setup ## run everything that the tests prove, not a part of it that changes with the commit
	@bash tools/system_libraries.sh browser
	$(PYTEST) --thorough

lint: setup ## ruff and the import rules between the packages
	$(BIN)/ruff check .
	$(BIN)/ruff check --isolated --select F821 benchmarks examples tests tools # names that nothing defines, where no shape strings stand
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

type: setup ## mypy --strict
	$(BIN)/mypy

benchmark: setup ## the figures that matter in about a quarter of an hour: results, tables, what moved; MVAD_REAL_DATA adds real scans
	$(EXTRAS)
	$(BIN)/python benchmarks/everything.py

benchmark-full: setup ## the same benchmarks in full, then accuracy, for hours
	$(EXTRAS)
	$(BIN)/python benchmarks/everything.py --full

benchmark-chain: setup ## the whole way on the real scans of MVAD_REAL_DATA, verb by verb
	$(BIN)/python benchmarks/real_scans.py

benchmark-metrics: setup ## evaluation against scikit-learn, ADEval and torchmetrics; evaluate, predict, the page in a browser
	$(EXTRAS)
	$(BIN)/python benchmarks/metrics.py

benchmark-render: setup ## rendering against pyrender, moderngl, Open3D and embree; MVAD_REAL_DATA adds real scans
	$(EXTRAS)
	$(BIN)/python benchmarks/render.py

benchmark-shards: setup ## shards against picture folders, webdataset and plain HDF5; MVAD_REAL_DATA adds real scans
	$(EXTRAS)
	$(BIN)/python benchmarks/shards.py

benchmark-train: setup ## training and inference against five DeSTSeg models as published; MVAD_REAL_DATA adds real views
	$(EXTRAS)
	$(BIN)/python benchmarks/train.py

benchmark-accuracy: setup ## S-AUROC of IDIF, its ablations and baselines, seed by seed; continues where it stopped
	$(BIN)/python benchmarks/accuracy.py

benchmark-gpu: setup ## a CUDA card, in eight minutes and without a network: steps, what is attainable, memory, a training (docs/gpu.md)
	$(BIN)/python benchmarks/gpu.py

verify: setup ## check every stored byte of the demo's workspace
	$(BIN)/mvad verify --workspace $(DEMO)

clean: ## remove the environment, the demo and caches
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

help: ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'
