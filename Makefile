.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A module's tests share what they have trained, so they stay together; the longest goes first.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder
QUICKSTART := examples/quickstart
# Tiny models are fastest on one thread per process.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help
help: ## Show what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[operator,trainer]' --group dev
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Install everything into .venv (the other targets do it themselves).

.PHONY: quickstart
quickstart: setup ## Train a tiny model on handwritten digits: SFT, GRPO, evaluation, report.
	$(BIN)/python $(QUICKSTART)/prepare.py
	$(BIN)/coldstart run $(QUICKSTART)/run.yaml

.PHONY: ablation
ablation: quickstart ## The quickstart without SFT and without GRPO, and the table of all arms.
	$(BIN)/coldstart run $(QUICKSTART)/sft-only.yaml
	$(BIN)/coldstart run $(QUICKSTART)/grpo-only.yaml
	$(BIN)/coldstart compare quickstart quickstart-sft-only quickstart-grpo-only

.PHONY: test
test: setup ## Run every test; the ones that train take some minutes.
	$(PYTEST)

.PHONY: test-fast
test-fast: setup ## Run the tests that do not train.
	$(PYTEST) -m 'not slow'

.PHONY: generate
generate: setup ## Write the files that are made from the models.
	$(BIN)/python -m coldstart.generate

.PHONY: format
format: setup ## Format the code.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: verify
verify: setup ## Check format, lint, types, import contracts and generated files.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m coldstart.generate --check

.PHONY: clean
clean: ## Remove the environment, caches and what the quickstart made.
	rm -rf $(VENV) runs $(QUICKSTART)/build .mypy_cache .pytest_cache .ruff_cache .hypothesis
