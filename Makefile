# Everything runs in a virtual environment of its own, set up on first use with the versions in requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 600
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.installed-tools
LOCK := requirements.lock
OLDEST := requirements-oldest.lock

.PHONY: quick test proofs exactness faults fuzz cluster distributed stream gpu browser docs lint bench lock package \
  oldest clean

# The main job on an embedded data set: train, select, fuse, compare; prints and writes the leaderboard.
quick: $(INSTALLED)
	$(BIN)/prunefuse-bench run quick --out runs/quick --resume

# Builds the core, checks style and types, runs the tests, and the CUDA kernels in an emulator. Two processes of one
# thread each: more threads would wait for each other.
test: $(TOOLS) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Proofs that take minutes: 200,000 points, peaks of memory, thread sanitizer, an ARM processor under qemu (needs the
# packages g++-aarch64-linux-gnu and qemu-user-static on Debian and Ubuntu).
proofs: $(TOOLS)
	$(BIN)/python -m pytest -m slow -rs

# One cell on several processes of this machine, and choosing from a stream of two million images, with Ray Data and
# without; installs Ray.
distributed: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/test_distributed.py

stream: $(TOOLS)
	$(BIN)/pip install --quiet --constraint $(LOCK) "prunefuse-bench[ray]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" -rs tests/test_streaming.py

# One of them alone: prune, train, fuse is exact for every registered network and every way to prune it. Prints what a
# threshold over all layers leaves nothing of, and so is refused.
exactness: $(TOOLS)
	$(BIN)/python -m pytest -m slow tests/test_exactness.py

# Another: 100 kills at random moments and 200 random damages of files end with the result of a run without any.
faults: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/test_faults.py -rP

# Each reader of files from strangers for FUZZ_SECONDS, guided by coverage; prints executions, edges and findings, and fails
# if there are any. Installs atheris (Python 3.11 or later). make test runs the harnesses without it, on a few inputs.
fuzz: $(TOOLS)
	$(BIN)/pip install --quiet "prunefuse-bench[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

# Twelve cells on a cluster of three nodes that Ray starts on this machine; one is killed in the middle. Also Slurm's jobs
# by submitit's local executor. Installs Ray and submitit.
cluster: $(TOOLS)
	$(BIN)/pip install --quiet --constraint $(LOCK) "prunefuse-bench[ray,slurm]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/test_cluster.py -rs

# The CUDA kernels on a GPU; every test is skipped where there is none.
gpu: $(TOOLS)
	$(BIN)/python -m pytest -m gpu -rs

# The leaderboard page in a real browser (on Debian and Ubuntu the packages chromium and chromium-driver); fails where
# there is none. make test runs the same tests where it finds one, and skips them where it does not.
browser: $(TOOLS)
	PRUNEFUSE_BENCH_BROWSER=required $(BIN)/python -m pytest tests/test_browser.py -rs

# The documentation, in site/; a link that leads nowhere is an error.
docs: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/vulture prunefuse_bench baselines
	$(BIN)/deptry . tests benchmarks docs/examples/mirror
	$(BIN)/deptry . --optional-dependencies-dev-groups dev --extend-exclude 'tests|benchmarks|docs|conftest|setup'
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*/*.[ch]* tests/emulator/*.cpp tests/emulator/*.h \
	  tests/emulator/*/*.h tests/portable/*.cpp)

# Builds the source archive, from it the wheel, compiled, and tries it in an environment of its own.
package: $(TOOLS)
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_distribution.py -rs

# Every version that is tested, for all Pythons from 3.10 on, and the oldest ones that pyproject.toml allows. What the files
# name stays as long as it fits pyproject.toml; make lock UPGRADE=--upgrade takes the newest of everything (but torch has
# to fit the CUDA compiler of the extra dev).
COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --extra cpu \
  --custom-compile-command "make lock"
lock:
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet "uv==0.13.*"; }
	$(COMPILE) $(UPGRADE) --extra dev pyproject.toml --output-file $(LOCK)
	grep -E '^(hypothesis|ninja|packaging|pytest|pytest-benchmark|pytest-xdist|wheel)==' $(LOCK) > .venv-lock/tools.txt
	printf '%s\n' "setuptools>=77" "pybind11>=2.13" >> .venv-lock/tools.txt
	$(COMPILE) --resolution lowest-direct --no-annotate pyproject.toml .venv-lock/tools.txt --output-file $(OLDEST)

# The tests with those oldest versions, on the files of the source archive, in build/oldest. Without what does not depend on
# them (the page in a browser, the documentation, CUDA's compiler and the emulator, the core without torch).
oldest:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || \
	  { echo "The oldest versions are for Python 3.10 to 3.12, found $$($(PYTHON) --version); name one with make oldest PYTHON=..."; exit 1; }
	test -x .venv-oldest/bin/pip || $(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/pip install --quiet --requirement $(OLDEST)
	rm -rf build/oldest && mkdir -p build/oldest
	.venv-oldest/bin/python -c "from setuptools import build_meta; build_meta.build_sdist('build/oldest')"
	tar --extract --file build/oldest/*.tar.gz --directory build/oldest --strip-components 1
	.venv-oldest/bin/pip install --quiet --no-build-isolation --no-deps --editable build/oldest
	cd build/oldest && OMP_NUM_THREADS=1 PRUNEFUSE_BENCH_LOCK=$(OLDEST) ../../.venv-oldest/bin/python -m pytest -n 2 \
	  --dist loadfile $(foreach name,browser docs_site cuda_build cuda_kernels emulator portable,--ignore=tests/test_$(name).py)

# Measures; takes minutes and wants the machine to itself.
bench: $(TOOLS)
	$(BIN)/python -m pytest benchmarks/ --benchmark-only

# Without build isolation: the core is built against the packages that it runs with.
$(INSTALLED): pyproject.toml setup.py $(LOCK) $(wildcard csrc/*/*) prunefuse_bench/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python >= 3.10 is needed, found $$($(PYTHON) --version); name another with make PYTHON=..."; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "Python's venv module is missing (on Debian and Ubuntu: apt install python3-venv python3-dev)"; exit 1; }
	$(BIN)/pip install --quiet --constraint $(LOCK) setuptools pybind11 wheel ninja torch
	$(BIN)/pip install --quiet --constraint $(LOCK) --no-build-isolation --editable ".[cpu]"
	@touch $@

# What developers need beside: the package is there, so only the packages of the extra are installed.
$(TOOLS): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint $(LOCK) "prunefuse-bench[dev]"
	@touch $@

clean:
	rm -rf build site *.egg-info .pytest_cache .mypy_cache .ruff_cache prunefuse_bench/*.so $(INSTALLED) $(TOOLS)
