# `make train` and `make test` install the dependencies once, then run. Both work on a fresh clone.
#
# PY: the interpreter of an existing environment (a cluster's container, a GPU host with its own torch); nothing is
#     installed then. Default: .venv, made from pyproject.toml.
# EXPERIMENT: the file of conf/experiment that `make train` runs. Default: quickstart.
# JOBS: test files that `make test` runs in parallel, each process with its own copy of torch. Default: one per core.
# NPROC: ranks of `make train`. Default: 2 (the quickstart's batches fit two ranks), 1 on a host with one GPU.

PYTHON ?= python3
PY ?= .venv/bin/python
EXPERIMENT ?= quickstart
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
NPROC ?= $(shell $(PY) -c "import torch; print(min(2, torch.cuda.device_count()) or 2)" 2>/dev/null || echo 2)
# One thread per rank on the CPU: two ranks share two cores.
export OMP_NUM_THREADS ?= 1
ifeq ($(PY),.venv/bin/python)
READY = .venv/.ready
endif

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-all test-cluster check format benchmark soak gpu-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with the pinned dependencies and the command ropewalk

.venv/.ready: pyproject.toml launch/install.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Ropewalk needs Python 3.11 or newer: make ... PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv (once; downloads about 0.4 GB, or 3 GB where torch comes with CUDA)"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python launch/install.py
	@touch $@

train: $(READY)  ## the quickstart: prepare the corpus, train through three stages, write a report
	@WORLD_SIZE=$(NPROC) $(PY) launch/ropewalk.py train --check experiment=$(EXPERIMENT) $(ARGS)
	@$(PY) launch/ropewalk.py torchrun --standalone --nproc-per-node $(NPROC) -- experiment=$(EXPERIMENT) $(ARGS)

# The tests of a file share worlds of ranks, so a file stays on one process. tests/parity takes longest and runs first.
PYTEST = $(PY) -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(READY)  ## run the tests (CPU); print the most expensive files and the sum of CPU seconds
	@$(PYTEST) -m "not cluster and not slow" $(ARGS)

test-slow: $(READY)  ## run the tests that `make test` leaves out: all pairs of layouts, the GPU check on a CPU
	@$(PYTEST) -m "slow and not cluster" $(ARGS)

test-all: test test-slow  ## run test and test-slow

test-cluster: $(READY)  ## test launch/ with Slurm, sshd and cut links on virtual nodes (root; packages: .ci/run)
	@$(PY) -m pytest -q -m cluster tests/smoke $(ARGS)

check: $(READY)  ## check lint, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(READY)  ## format the code
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .

benchmark: $(READY)  ## measure; write docs/benchmarks.md and outputs/benchmarks/*.json
	@PYTHONPATH=.:tests$${PYTHONPATH:+:$$PYTHONPATH} $(PY) tests/benchmark/run_all.py $(ARGS)

soak: $(READY)  ## inject a hundred kills, and hangs on every axis; write docs/reliability.md (an hour)
	@PYTHONPATH=.:tests$${PYTHONPATH:+:$$PYTHONPATH} $(PY) tests/soak/run_all.py $(ARGS)

gpu-check: $(READY)  ## on a GPU host: test kernels against the oracle, run briefly, measure throughput
	@PYTHONPATH=.:tests$${PYTHONPATH:+:$$PYTHONPATH} $(PY) tests/gpu/gpu_check.py $(ARGS)

clean:  ## remove .venv and caches; keep outputs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
