# make demo, make test: each does all of its own set-up in $(VENV), once. make help lists the rest.

PYTHON ?= python3
VENV ?= .venv
TORCH_INSTALL ?= torch==2.13.0
PYTEST_ARGS ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
NATIVE := $(shell find csrc -type f)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format check-all check-levels check-compilers check-native check-cuda
.PHONY: check-emulated bench bench-quick bench-all bench-gpu clean

help:
	@echo "make demo             four tasks in one network, under two minutes; writes an HTML page"
	@echo "make test             the tests, some ten minutes on two cores"
	@echo "make lint             ruff, mypy, clang-format"
	@echo "make format           lets ruff and clang-format rewrite the sources"
	@echo "make check-all        everything: slow tests, both compilers, sanitizers, valgrind, CUDA compiled and inspected"
	@echo "make bench            speed against everything else there is; make bench-quick in two minutes"
	@echo "make bench-all        bench, the sweep and its plots, whole epochs (wants RSN2_DATA): appends to bench/results"
	@echo "make bench-gpu        on a GPU: build, gates, tests, sanitizer, speed (bench/gpu_suite.sh), with \$$(PYTHON) as it is"
	@echo "make clean            removes what was built, $(VENV) included"
	@echo "PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INSTALL=$(TORCH_INSTALL)"

$(STAMP): pyproject.toml setup.py tools/cuda_toolkit.py tools/setup_env.py $(NATIVE)
	$(PYTHON) tools/setup_env.py "$(VENV)" "$(TORCH_INSTALL)"
	@touch $@

setup: $(STAMP)

demo: setup
	$(VENV)/bin/rsn2 demo

test: setup
	$(PY) -m pytest $(PYTEST_ARGS)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE)

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE)

# No instruction of one CPU level may reach code that runs on a machine without it.
check-levels: setup
	$(PY) tools/check_levels.py build/native-*/rsn2_kernels.librsn2_cpu

# Every compiler that is here builds the library from scratch without a warning, and its levels are checked.
check-compilers: setup
	$(PY) tools/check_compilers.py

# The kernels without torch, under sanitizers and valgrind, and how many instructions they take.
check-native: setup
	$(PY) tools/check_native.py

# The CUDA kernels, where nvcc is: no warnings, no spills, the instructions they were written for. Needs no GPU.
check-cuda: setup
	$(PY) tools/check_cuda.py

# The CUDA kernels' tests on the emulator, under the address and undefined behaviour sanitizers.
check-emulated: setup
	$(PY) tools/check_emulated.py

check-all: lint check-levels check-native check-cuda check-emulated
	$(PY) tools/check_cuda.py --newer
	$(PY) tools/check_compilers.py --test
	$(PY) -m pytest -m "" $(PYTEST_ARGS)

BENCH_LIBRARIES = $(PY) -m pip install --quiet --disable-pip-version-check onnx onnxruntime

bench: setup
	$(BENCH_LIBRARIES)
	$(PY) -m bench.run --suite cpu

bench-quick: setup
	$(BENCH_LIBRARIES)
	$(PY) -m bench.run --suite cpu --quick

bench-all: setup
	$(BENCH_LIBRARIES)
	for suite in cpu sweep e2e; do $(PY) -m bench.run --suite $$suite --out bench/results/$$suite.jsonl || exit 1; done
	$(PY) -m bench.plot bench/results/sweep.jsonl --out bench/results

bench-gpu:
	PYTHON="$(PYTHON)" bench/gpu_suite.sh all --out build/gpu

clean:
	rm -rf "$(VENV)" build dist *.egg-info python/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f rsn2_kernels/*.so
	find rsn2_kernels python tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
