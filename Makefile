# Everything runs in .venv at the root; nothing is done twice. `make PYTHON=python3.12 ...` takes another interpreter.
PYTHON ?= python3.11
BIN := .venv/bin
MODEL := models/SmolLM2-135M-Instruct
RUN := runs/quickstart

.PHONY: quickstart test test-sglang test-newest test-oldest lint types docs tiny sglang-cpu gpu-check

quickstart: .venv/.installed $(MODEL)/config.json  ## Train SmolLM2-135M with ASPO: ten minutes on two cores
	@if [ -f $(RUN)/summary.json ]; then echo "$(RUN) is done already (remove it to run again):"; cat $(RUN)/summary.json; \
	else $(BIN)/aspo train examples/quickstart/run.yaml output_dir=$(RUN); fi

tiny: .venv/.installed  ## Train a tiny model from scratch in under a minute
	$(BIN)/aspo train examples/tiny/run.yaml

# Tests with a Slurm or SGLang servers have the machine for themselves. The others mostly use one processor, or wait.
ALONE := slurm or sglang

test: .venv/.installed  ## All tests: three quarters of an hour on two cores
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not ($(ALONE))"; together=$$?; \
	$(BIN)/python -m pytest -q -m "$(ALONE)" && exit $$together

# Without a network: make gpu-check PYTHON=python3 WHEELS=wheels, where tools/gather_wheels.py has filled wheels/.
gpu-check: $(if $(WHEELS),,.venv/.installed)  ## What of this works on the GPU of this machine: under ten minutes
	$(if $(WHEELS),$(PYTHON) tools/with_wheels.py "$(WHEELS)",$(BIN)/python) -m benchmarks.gpu_check $(ARGS)

sglang-cpu: .venv-sglang/.installed  ## The SGLang server for machines without a GPU, in .venv-sglang: 3.4 GB

.venv-sglang/.installed: tools/sglang_cpu/install.sh tools/sglang_cpu/requirements.txt
	tools/sglang_cpu/install.sh .venv-sglang $(PYTHON)

test-sglang: .venv/.installed .venv-sglang/.installed  ## The tests with real SGLang servers
	$(BIN)/python -m pytest -q -m sglang

# In environments of their own, with python3.12 if it is here, else 3.11 (the oldest with 3.11), or with PYTHON=... .
test-newest:  ## Layouts, checkpoints and the tiny run with the newest torch, megatron-core, transformers: half an hour
	tools/try_versions.sh newest .venv-newest $(if $(filter-out file,$(origin PYTHON)),$(PYTHON))

test-oldest:  ## The same with the oldest that pyproject.toml allows
	tools/try_versions.sh oldest .venv-oldest $(if $(filter-out file,$(origin PYTHON)),$(PYTHON))

lint: .venv/.installed  ## Style, and that imports run one way (pyproject.toml has the order)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: .venv/.installed
	$(BIN)/mypy

docs: .venv/.installed
	$(BIN)/python -m aspo_megatron.config.reference docs/configuration.md
	$(BIN)/python -m aspo_megatron.plots.loss_gallery docs/images/losses.png

# torch first and by itself, at its pinned version: nothing else may then choose another build of it.
.venv/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

$(MODEL)/config.json: | .venv/.installed
	$(BIN)/python -W ignore examples/quickstart/fetch_smollm2.py $(MODEL)
