# Every target sets up what it needs: .venv from requirements.lock, nothing outside this folder.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PEERS := .venv/peers/ready
READERS := .venv/readers/ready
PACKAGES := pipeline models flows tests

.PHONY: help setup demo test test-slow test-gpu check format bench bench-compare chaos fuzz audit train-nuclei train-nuclei-plain lock clean

help: ## what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## .venv with exactly what the lock lists
# torch goes first and by pip: a CPU build of the locked version that pip was told of is then kept by uv.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements.lock uv torch
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## make a bucket, segment it, look at the masks
	$(BIN)/masklake demo

test: $(READY) $(READERS) ## every test but the slow ones
	$(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## the tests that take minutes each
	$(BIN)/pytest -m slow

test-gpu: $(READY) ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu

check: $(READY) ## format, lint and types
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/mypy

format: $(READY) ## rewrite the sources in the project's format
	$(BIN)/ruff format $(PACKAGES)
	$(BIN)/ruff check --fix $(PACKAGES)

bench: $(PEERS) ## measure; prints a table of ratios (ONLY="masks network" for some of it)
	PYTHONPATH=.venv/peers $(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

bench-compare: $(READY) ## two of its results side by side (A=commit B=commit)
	$(BIN)/python -m tests.bench.compare $(A) $(B)

$(PEERS): tests/bench/peers/requirements.txt $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .venv/peers --requirement $<
	@touch $@

# Apart: they ask for other versions than the lock has.
$(READERS): tests/readers/requirements.txt $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .venv/readers --requirement $<
	@touch $@

chaos: $(READY) ## hurt runs in every way, and count what is lost, doubled or wrong; takes hours
	$(BIN)/python -m tests.faults

SECONDS ?= 600
fuzz: $(READY) ## feed each reader of bytes with hostile ones (SECONDS=600 for each of the five)
	for target in images masks manifests configs labels; do \
	  $(BIN)/python -m tests.fuzz.$$target -max_total_time=$(SECONDS) || exit 1; \
	done

NUCLEI = $(BIN)/masklake finetune $(DATA) --split-file $(DATA)/split.csv --foreground nucleus --from-scratch \
  --crop 160 --micro-batch 16 --epochs 80 --validate-every 10

train-nuclei: $(READY) ## train the shipped checkpoint again (DATA=folder with images/, masks/, split.csv)
	$(NUCLEI) --out nuclei

train-nuclei-plain: $(READY) ## the same without self-attention, for comparison
	$(NUCLEI) --no-attention --out nuclei-plain

lock: $(READY) ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --extra demo --extra export --extra openvino --extra report --extra train --extra view --extra flows --extra dev --python-version 3.11 \
	  --no-strip-markers --no-emit-index-url --no-header --output-file requirements.lock pyproject.toml

# By uv, in an environment of its own: what is audited must not change with what audits it. Strict, because a
# package that the service does not know would otherwise pass.
audit: $(READY) ## ask for known vulnerabilities of what the lock lists; needs PyPI itself, not a mirror of it
	$(BIN)/uv tool run pip-audit@2.10.1 --strict --no-deps --disable-pip --requirement requirements.lock

clean: ## remove the environment and what the demo and the benchmarks made
	rm -rf .venv demo nuclei nuclei-plain bench-results build *.egg-info .mypy_cache .ruff_cache
