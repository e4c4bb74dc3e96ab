# Needs Python 3.11 or newer and make. Every target makes the virtual
# environment it needs, once; a change of pyproject.toml refreshes it.

PYTHON ?= python3
JAX ?= jax
TORCH ?= torch==2.13.0

# A process for each core, up to four; a file's tests share what is costly to start.
# tests/conftest.py puts the files that take longest first.
CORES = $(shell $(PYTHON) -c "import os; print(min(os.cpu_count(), 4))")
PYTEST = -m pytest -n $(CORES) --dist=loadfile --no-loadscope-reorder

# What is the same on every backend is tested with TensorFlow. That it needs no TensorFlow,
# test-wheel holds: it asks the installed tab and command in each backend's environment.
ONCE = command storage tab \
	callbacks/test_drift_faults.py callbacks/test_drift_tensorboard.py \
	callbacks/test_freeze_tensorboard.py \
	test_benchmarks.py test_demo.py
# What old versions of Keras and TensorBoard cannot break in a way of its own.
VERSIONLESS = storage/test_fuzz.py storage/test_power.py \
	tab/test_cache.py tab/test_tab_browser.py tab/test_tab_network.py \
	callbacks/test_drift_faults.py callbacks/test_faults.py \
	test_benchmarks.py test_demo.py test_examples.py test_project.py test_properties.py

# Two targets at a time: a suite that waits for a browser, a server or its slowest file leaves
# its core to another. What a target printed is shown when it ends.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --jobs=2 --output-sync=target
endif

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test properties fuzz walk bench bench-quick check docs notebook coverage test-tensorflow test-jax test-torch test-oldest test-oldest-jax test-oldest-torch test-wheel environments format clean

help:
	@echo "make demo          learn five new digits from few examples, and see what is kept (under three minutes)"
	@echo "make test          checks, then the tests on TensorFlow, JAX and PyTorch"
	@echo "make properties    a million cases of what must hold for every input (about half an hour of one core)"
	@echo "make fuzz          a million damaged files through every reader (hours)"
	@echo "make walk          the parts of every architecture of keras.applications and KerasHub"
	@echo "make bench         measure what the package costs on this machine"
	@echo "make bench-quick   the most important of it in two minutes, with a verdict in one line"
	@echo "make check         ruff and mypy"
	@echo "make test-BACKEND  the tests on tensorflow, jax or torch"
	@echo "make coverage      the tests on TensorFlow, and which lines of the package they reach"
	@echo "make test-oldest   the tests on the oldest versions that pyproject.toml admits"
	@echo "make test-oldest-BACKEND  a part of them so on jax or torch"
	@echo "make test-wheel    build wheel and sdist, check them, install the wheel in a clean environment for each backend"
	@echo "make docs          build the documentation into site/"
	@echo "make notebook      make the guide a notebook and execute it, into build/"
	@echo "make format        ruff, writing"
	@echo "make clean         remove the environments and what tests and builds left"

demo: .venv/demo.stamp
	.venv/bin/python examples/finetune_digits.py

test: check test-tensorflow test-jax test-torch

properties: .venv/dev.stamp
	PROPERTY_ROUNDS=85 .venv/bin/python $(PYTEST) --dist=load tests/test_properties.py

fuzz: .venv/dev.stamp
	FUZZ_ROUNDS=1000 .venv/bin/python $(PYTEST) --dist=load tests/storage/test_fuzz.py

walk: .venv/dev.stamp
	KERAS_BACKEND=tensorflow .venv/bin/python $(PYTEST) --dist=load tests/model/walk_architectures.py

bench: .venv/dev.stamp
	.venv/bin/python -m benchmarks

bench-quick: .venv/dev.stamp
	.venv/bin/python -m benchmarks --quick --output build/benchmarks

check: .venv/dev.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# One process more: its tests wait for browsers, servers and processes of their own.
test-tensorflow: .venv/dev.stamp
	KERAS_BACKEND=tensorflow .venv/bin/python $(PYTEST) -n $$(($(CORES) + 1))

coverage: .venv/dev.stamp
	KERAS_BACKEND=tensorflow .venv/bin/python $(PYTEST) --cov --cov-report=term:skip-covered

test-jax: .venv-jax/stamp
	KERAS_BACKEND=jax .venv-jax/bin/python $(PYTEST) $(ONCE:%=--ignore=tests/%)

test-torch: .venv-torch/stamp
	KERAS_BACKEND=torch .venv-torch/bin/python $(PYTEST) $(ONCE:%=--ignore=tests/%)

# Old releases use what others have deprecated since.
test-oldest: .venv-oldest/stamp
	KERAS_BACKEND=tensorflow .venv-oldest/bin/python $(PYTEST) -W ignore::DeprecationWarning \
		$(VERSIONLESS:%=--ignore=tests/%)

# On JAX and PyTorch a part of them: what trains, freezes, records and is loaded again.
OLDEST = tests/optimizer/test_layerwise.py tests/optimizer/test_saving.py \
	tests/drift/test_tracker.py tests/callbacks/test_weight_drift.py tests/backend/test_internals.py

test-oldest-jax test-oldest-torch: test-oldest-%: .venv-oldest-%/stamp
	KERAS_BACKEND=$* .venv-oldest-$*/bin/python $(PYTEST) -W ignore::DeprecationWarning $(OLDEST)

# Each backend in an environment of its own, in which nothing was before.
test-wheel: .venv/dev.stamp
	rm -rf dist
	.venv/bin/python -m build
	.venv/bin/twine check --strict dist/*
	.venv/bin/check-wheel-contents dist/*.whl
	$(MAKE) test-wheel-tensorflow test-wheel-jax test-wheel-torch

test-wheel-torch: BACKEND = $(TORCH)
test-wheel-%:
	$(PYTHON) -m venv --clear .venv-wheel-$*
	$(if $(BACKEND),.venv-wheel-$*/bin/python -m pip install -q "$(BACKEND)")
	.venv-wheel-$*/bin/python -m pip install -q "$$(echo dist/*.whl)[$*]"
	KERAS_BACKEND=$* .venv-wheel-$*/bin/python .ci/check_wheel.py
	.venv-wheel-$*/bin/keras-layerwise --help
	rm -rf .venv-wheel-$*

docs: .venv/dev.stamp
	.venv/bin/mkdocs build --strict

notebook: .venv/dev.stamp
	.venv/bin/python .ci/notebook.py examples/guide_finetune_pretrained.py build/finetune_pretrained.ipynb

format: .venv/dev.stamp
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv .venv-jax .venv-torch .venv-oldest .venv-oldest-jax .venv-oldest-torch .venv-wheel-* build dist site .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

# What CI tests in.
environments: .venv/dev.stamp .venv-jax/stamp .venv-torch/stamp .venv-oldest/stamp

# demo.stamp has what the demonstration needs, dev.stamp all that developing does.
.venv/%.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -e ".[$*]"
	touch $@

# The backend goes first: PyTorch's builds share a version, and the one that
# is pinned here has to be in place before another requirement chooses.
.venv-jax/stamp: BACKEND = $(JAX)
.venv-torch/stamp: BACKEND = $(TORCH)
.venv-jax/stamp .venv-torch/stamp: .venv-%/stamp: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q "$(BACKEND)"
	.venv-$*/bin/python -m pip install -q -e ".[$*,test]"
	touch $@

.venv-oldest-torch/stamp: BACKEND = $(TORCH)
.venv-oldest-jax/stamp .venv-oldest-torch/stamp: .venv-oldest-%/stamp: pyproject.toml .ci/oldest.py
	$(PYTHON) -m venv .venv-oldest-$*
	.venv-oldest-$*/bin/python .ci/oldest.py $* > .venv-oldest-$*/constraints.txt
	$(if $(BACKEND),.venv-oldest-$*/bin/python -m pip install -q "$(BACKEND)")
	.venv-oldest-$*/bin/python -m pip install -q -c .venv-oldest-$*/constraints.txt -e ".[$*,test]"
	touch $@

.venv-oldest/stamp: pyproject.toml .ci/oldest.py
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python .ci/oldest.py tensorflow > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/constraints.txt -e ".[tensorflow,test]"
	touch $@
