# Three commands do all the set-up on a machine with Python 3.11+, make and pip:
#   make demo   scans -> detectors -> a study -> reports/index.html
#   make test   linters, types and tests (make check: the fast ones)
#   make lab    JupyterLab with the demo data and the live explorer
PYTHON ?= python3
BIN := .venv/bin
UV_VERSION := 0.13.9

.PHONY: demo lab lab-server study validity check test lint structure test-gpu fuzz bench card pictures lock clean
.DELETE_ON_ERROR:

demo: .venv/.ready
	$(BIN)/lsfa data demo
	$(BIN)/lsfa run all
	$(BIN)/lsfa sweep studies/components.yaml --categories biscuit --seeds 0

lab: .venv/.ready
	$(BIN)/lsfa data demo
	$(MAKE) --no-print-directory lab-server

# labconfig/ is read, all that Jupyter and IPython write goes to LAB_HOME. A browser is opened;
# LAB_ARGS=--no-browser opens none, and takes any other option of `jupyter lab`. Language servers
# are left out: looking for them takes seconds and writes to the home folder. Notebooks are saved
# without outputs, so that running them changes no tracked file.
LAB_HOME ?= $(CURDIR)/.venv/jupyter
LAB_FOLDER ?= notebooks
LAB_ARGS ?=

lab-server: export JUPYTER_CONFIG_PATH = $(CURDIR)
lab-server: export JUPYTER_CONFIG_DIR = $(LAB_HOME)/config
lab-server: export JUPYTER_DATA_DIR = $(LAB_HOME)/data
lab-server: export JUPYTER_RUNTIME_DIR = $(LAB_HOME)/runtime
lab-server: export IPYTHONDIR = $(LAB_HOME)/ipython
lab-server:
	$(BIN)/jupyter lab "$(LAB_FOLDER)" --LabApp.default_url=/lab/tree/explore.ipynb \
		--ServerApp.jpserver_extensions="jupyter_lsp=False" \
		--ContentsManager.pre_save_hook=lsfa_lib.notebooks.saved.without_outputs \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

# How much each component contributes, with seeds and intervals: two to three hours on two cores.
study: .venv/.ready
	$(BIN)/lsfa data demo --study --root data/study
	$(BIN)/lsfa sweep studies/in_depth.yaml --document docs/components.md

# Whether recipes gain on real photographs what they gain on the demo; data/mvtec3d holds MVTec 3D-AD.
# Both versions of the demo have the same frame and as many test scans, so that they are judged alike.
validity: .venv/.ready
	$(BIN)/lsfa data demo --study --version 1 --root data/demo1
	$(BIN)/lsfa data demo --study --root data/study
	$(BIN)/lsfa sweep studies/validity.yaml

# One process per core, one thread each: torch's own threads would compete with the processes.
test check: export OMP_NUM_THREADS = 1
test check: export MKL_NUM_THREADS = 1
PYTEST := $(BIN)/python -m pytest -n logical --dist load --durations 20

# Linters, types and the fast tests, for use while writing code.
check: lint
	$(PYTEST) -m "not slow and not browser and not gpu"

test: lint
	$(PYTEST)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-gpu: .venv/.ready
	$(BIN)/python -m pytest -m gpu

# Damaged and odd files of every type, FUZZ_SECONDS for each reader, as many at a time as cores.
FUZZ_SECONDS ?= 60

fuzz: .venv/.ready
	$(BIN)/python tests/fuzz_readers.py --seconds $(FUZZ_SECONDS)

# Those of the README and of docs/gallery.md, from what `make demo` wrote; needs Chromium.
pictures: .venv/.ready
	$(BIN)/python docs/screenshots.py

# What the small Point-MAE was trained on and what it knows: docs/point_mae_small.md.
card: .venv/.ready
	$(BIN)/python docs/model_card.py

bench: .venv/.ready
	$(BIN)/python -m benchmarks

# Counts the library's code; a change may grow it only for a reason.
structure: .venv/.ready
	$(BIN)/python -m benchmarks.structure

# Versions are pinned once, for every platform; run after changing pyproject.toml.
lock: .venv/.ready
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --no-header --quiet -o requirements.lock

# uv links packages from its cache, so a second environment costs seconds. --python keeps it from
# installing into another environment that happens to be active.
.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	$(BIN)/python -c "import open3d" 2>/dev/null || sh .ci/system-libraries
	$(BIN)/python -c "from lsfa_lib.storage.open3d import load_open3d; load_open3d()"
	$(BIN)/python -m compileall -q lsfa_lib
	touch $@

clean:
	rm -rf .venv data/demo data/cache reports/runs reports/studies reports/index.html
