# Every target works on a fresh clone: the environment in .venv is made when it is missing or its requirements changed.
PYTHON ?= python3.11
CORES ?= all
CONFIG ?= config/config.yaml
# The name of the experiment in CONFIG, which is also its folder below results/.
EXPERIMENT = $(shell sed -n 's/^experiment: *//p' $(CONFIG))
BIN := .venv/bin
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES) --configfile $(CONFIG)

.DEFAULT_GOAL := help

.PHONY: help
help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.venv/ready: envs/requirements.txt
	@echo "Making the Python environment .venv (some minutes; PyTorch is large)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement envs/requirements.txt
	@touch $@

.PHONY: setup
setup: .venv/ready ## make the Python environment

.PHONY: run
run: report ## run the experiment of CONFIG (the default one) to its report

.PHONY: report
report: .venv/ready ## the same: what is done already is not done again
	@echo "Running the experiment $(EXPERIMENT); long steps write their progress to results/$(EXPERIMENT)/logs"
	$(SNAKEMAKE)
	$(SNAKEMAKE) --report results/$(EXPERIMENT)/report.html
	@echo "Table and figures on one page: results/$(EXPERIMENT)/summary.html"
	@echo "Report with all details:       results/$(EXPERIMENT)/report.html"

.PHONY: view
view: .venv/ready ## look at the results of CONFIG in a browser (Neuroglancer)
	PYTHONPATH=workflow $(BIN)/python -m lsdflow.view results/$(EXPERIMENT)

.PHONY: test
test: .venv/ready ## run the tests
	@echo "Running the tests: unit tests of the library, then whole graphs on tiny data (some minutes)"
	$(BIN)/python -m pytest -m "not conda and not slurm" $(TESTS)

.PHONY: test-conda
test-conda: .venv/ready ## run the tiny graph in its conda environments (needs conda on PATH)
	$(BIN)/python -m pytest -m conda

.PHONY: test-slurm
test-slurm: .venv/ready ## run the tiny graph, retries and a lost node on the Slurm cluster that sinfo shows
	$(BIN)/python -m pytest -m slurm

.PHONY: lint
lint: .venv/ready ## check the style of code and rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint

.PHONY: format
format: .venv/ready ## format code and rules
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt workflow

# The peers that speed is compared with; kept apart from the environment of the workflow.
.venv/peers/ready: envs/requirements-bench.txt | .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/peers --requirement $<
	@touch $@

# One that needs an older zarr.
.venv/gunpowder/ready: envs/requirements-gunpowder.txt | .venv/ready
	$(PYTHON) -m venv .venv/gunpowder
	.venv/gunpowder/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Benchmarks use real labels, and a network that has learned from them.
MEDULLA = resources/volumes/medulla.zarr
TRAINED = results/fibsem-medulla/models/baseline/0/checkpoint.pt
AFFINITIES = results/fibsem-medulla/benchmarks/medulla_affinities.zarr

.PHONY: bench
bench: .venv/ready .venv/peers/ready .venv/gunpowder/ready ## measure speed beside peers (downloads a volume, MIRROR=FOLDER for one; half an hour)
	$(BIN)/snakemake --cores $(CORES) --configfile config/experiments/fibsem-medulla.yaml $(if $(MIRROR),--config mirror=$(MIRROR)) -- $(MEDULLA) $(TRAINED)
	PYTHONPATH=workflow:tests/unit:.venv/peers $(BIN)/python benchmarks/lsd_targets.py $(MEDULLA) docs/targets
	PYTHONPATH=workflow $(BIN)/python benchmarks/affinities.py docs/targets/affinities.md
	PYTHONPATH=workflow $(BIN)/python benchmarks/batches.py $(MEDULLA) .venv/gunpowder/bin/python docs/training/batches.md
	PYTHONPATH=workflow $(BIN)/python benchmarks/malis.py $(MEDULLA) docs/training/malis.md
	PYTHONPATH=workflow $(BIN)/python benchmarks/networks.py docs/training/networks.md
	PYTHONPATH=workflow $(BIN)/python benchmarks/seams.py $(MEDULLA) $(TRAINED) docs/training
	PYTHONPATH=workflow $(BIN)/python benchmarks/metrics.py $(MEDULLA) docs/evaluation/speed.md
	PYTHONPATH=workflow $(BIN)/python benchmarks/whole_affinities.py $(MEDULLA) $(TRAINED) $(AFFINITIES)
	PYTHONPATH=workflow $(BIN)/python benchmarks/blocks.py $(AFFINITIES) $(MEDULLA) docs/segmentation
	PYTHONPATH=workflow $(BIN)/python benchmarks/agglomeration.py $(AFFINITIES) docs/segmentation/agglomeration.md

.PHONY: bench-scaling
bench-scaling: .venv/ready ## measure the segmentation of up to 1024³ synthetic voxels (15 minutes, 15 GB of disk)
	PYTHONPATH=workflow $(BIN)/python benchmarks/scaling.py $(BIN)/snakemake results/scaling docs/segmentation

.PHONY: paper
paper: .venv/ready ## redraw the paper's zebrafinch figures (ROWS="FILE ..." adds rows of your own)
	PYTHONPATH=workflow $(BIN)/python -m lsdflow.figures.paper results/paper $(if $(ROWS),--rows $(ROWS))

.PHONY: clean
clean: ## remove results, imported volumes and logs; downloads and the environment stay
	rm -rf results resources/volumes resources/segmentations resources/logs resources/benchmarks
