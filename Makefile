# Each target sets itself up in .venv first. ARGS go to snakemake or pytest: make study ARGS="--config scale=smoke"
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
ARGS ?=
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup study measured test test-all slurm-test bench lint format schemas clean-venv

help:
	@echo "make study      set up, run the study at scale tiny, print its table and where the report is"
	@echo "make measured   tables, figures and pages of the committed results (results/measured), without training"
	@echo "make test       set up, run the tests (test-all: the full-size ones too)"
	@echo "make slurm-test a real SLURM on this machine (root on Debian), the study and every failure on it"
	@echo "make bench      speed and memory against the peers (DeepSpeed, Hugging Face), as ratios"
	@echo "make lint       ruff, snakefmt, mypy, snakemake --lint"
	@echo "make format     ruff and snakefmt, in place"
	@echo "make schemas    the JSON schemas of config/ from the types"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml envs/setup.sh envs/constraints.txt
	PYTHON=$(PYTHON) bash envs/setup.sh $(VENV)
	@touch $@

study: setup
	@dataeff run --cores all $(ARGS)

MEASURED ?= $(patsubst %/measured.json,%,$(wildcard results/measured/*/measured.json))
measured: setup
	@dataeff measured build $(MEASURED)
	@dataeff measured state results/measured/cpu_night --summary README.md --document docs/reproduction.md

test: setup
	pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/slurm $(ARGS)

test-all: test
	pytest -m slow --ignore=tests/slurm $(ARGS)

# Skipped, with the reason, where a SLURM cannot be started. ARGS='-m "not slow"' leaves out all failures but preemption.
slurm-test: setup
	pytest tests/slurm $(ARGS)

# Ratios against the peers, side by side; about half an hour. BENCH=analyze.py runs one of them.
BENCH ?= tokens.py analyze.py reduce.py order.py step.py accounting.py random_ltd.py start_up.py compile.py bert_attention.py finetune.py evaluate.py
bench: setup
	@for script in $(BENCH); do python bench/$$script $(ARGS) || exit 1; done

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	snakemake --lint

format: setup
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow

schemas: setup
	dataeff schemas --out config/schemas

clean-venv:
	rm -rf $(VENV)
