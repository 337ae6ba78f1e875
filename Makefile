# One target per thing a person does here; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
MYPY_PATHS := operator/gpulease tests/rig tests/demo tools/dashboards

.PHONY: help setup verify lint types imports test test-fast test-unit test-property test-contract test-envtest test-e2e demo demo-down bench proto rig-build rig-up rig-down sim sim-long image chart-sync chart-lint clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

setup: .venv/.ready ## make .venv with every locked dependency; .venv/bin/gpulease is the CLI

.venv/.ready: requirements.lock pyproject.toml tools/setup.sh
	@bash tools/setup.sh
	@touch $@

verify: setup lint types imports ## ruff, mypy --strict and the import contracts

lint: setup ## ruff check and format check
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup ## mypy --strict
	$(PY) -m mypy $(MYPY_PATHS)

imports: setup ## import-linter: which room may import which
	.venv/bin/lint-imports

test: setup ## everything: verify, then every tier, rig included
	@bash tools/test.sh

test-fast: setup ## unit, property and contract tiers only
	$(PYTEST) tests/unit tests/property tests/contract -q

test-unit: setup ## unit tier
	$(PYTEST) tests/unit -q

test-property: setup ## property tier
	$(PYTEST) tests/property -q

test-contract: setup ## contract tier: devnet, gateway and clients against recorded answers
	$(PYTEST) tests/contract -q

test-envtest: setup ## tests against a real API server
	$(PYTEST) tests/envtest -q

test-e2e: setup ## tests on the rig (needs root)
	$(PYTEST) tests/e2e -q

demo: ## the whole story of one lease on a real cluster on this machine (needs root), set up by itself
	@bash tools/demo.sh up

demo-down: ## remove what an aborted demo left
	@bash tools/demo.sh down

bench: setup ## figures beside their bars: single parts, then the main story on the rig (needs root)
	$(PYTEST) tests/perf -q
	PYTHONPATH=operator $(PY) -m tests.bench

sim: setup ## the simulator: SEED, SEEDS, DAYS, BLOCK_S, ARGS (docs/dev/simulation.md)
	PYTHONPATH=operator $(PY) -m tests.sim --seed $(or $(SEED),1) --seeds $(or $(SEEDS),1) --days $(or $(DAYS),1) $(if $(BLOCK_S),--block-s $(BLOCK_S)) $(ARGS)

sim-long: setup ## the simulator for as long as one wants: SEED, SEEDS (default 1000), DAYS (default 30)
	PYTHONPATH=operator $(PY) -m tests.sim --seed $(or $(SEED),1000) --seeds $(or $(SEEDS),1000) --days $(or $(DAYS),30) --keep-going $(ARGS)

proto: setup ## write proto/akash from the wire facts and generate operator/gpulease/pb
	$(PY) tools/gen_proto.py
	$(PY) tools/gen_pb.py

rig-build: setup ## build what the rig needs and the cache lacks (Kubernetes, etcd, NVIDIA's plugin, images)
	PYTHONPATH=operator $(PY) -m tests.rig build

rig-up: setup ## a one-node Kubernetes with two GPUs that are not there (needs root)
	PYTHONPATH=operator $(PY) -m tests.rig up

rig-down: ## end the rig, and remove what an aborted one left
	PYTHONPATH=operator $(PY) -m tests.rig down

image: setup ## the image as an archive, dist/gpulease-image.tar, with no registry and no base
	@mkdir -p dist
	$(PY) tools/image.py archive dist/gpulease-image.tar

chart-sync: setup ## bring the chart's copies of the CRDs and its README's table up to date
	$(PY) tools/chart.py

chart-lint: setup ## helm lint and every variant of values held by Kubernetes' schemas and a real API server
	$(PYTEST) tests/envtest/test_chart_render.py -q
