# Everything runs in .venv at the root; nothing is done twice. `make PYTHON=python3.12 ...` takes another interpreter.
PYTHON ?= python3.11
BIN := .venv/bin
MODEL := models/SmolLM2-135M-Instruct
RUN := runs/quickstart

.PHONY: quickstart test test-fast test-sglang test-thorough test-newest test-oldest lint types docs generated site hooks
.PHONY: release-check tiny sglang-cpu browser gpu-check

quickstart: .venv/.installed $(MODEL)/config.json  ## Train SmolLM2-135M with ASPO: ten minutes on two cores
	@if [ -f $(RUN)/summary.json ]; then echo "$(RUN) is done already (remove it to run again):"; cat $(RUN)/summary.json; \
	else $(BIN)/aspo train examples/quickstart/run.yaml output_dir=$(RUN); fi

tiny: .venv/.installed  ## Train a tiny model from scratch in under a minute
	$(BIN)/aspo train examples/tiny/run.yaml

# Tests with a Slurm or SGLang servers have the machine for themselves. The others mostly use one processor, or wait.
ALONE := slurm or sglang

test: .venv/.installed  ## All tests but more cases of the same: three quarters of an hour on two cores
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not ($(ALONE) or thorough)"; together=$$?; \
	$(BIN)/python -m pytest -q -m "($(ALONE)) and not thorough" && exit $$together

test-fast: .venv/.installed  ## The tests to run at each change: under 90 seconds on two cores (tests/fast.txt has which)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile @tests/fast.txt

# Without a network: make gpu-check PYTHON=python3 WHEELS=wheels, where tools/gather_wheels.py has filled wheels/.
gpu-check: $(if $(WHEELS),,.venv/.installed)  ## What of this works on the GPU of this machine: under ten minutes
	$(if $(WHEELS),$(PYTHON) tools/with_wheels.py "$(WHEELS)",$(BIN)/python) -m benchmarks.gpu_check $(ARGS)

sglang-cpu: .venv-sglang/.installed  ## The SGLang server for machines without a GPU, in .venv-sglang: 3.4 GB

.venv-sglang/.installed: tools/sglang_cpu/install.sh tools/sglang_cpu/requirements.txt
	tools/sglang_cpu/install.sh .venv-sglang $(PYTHON)

browser: .venv-browser/.installed  ## A headless Chromium for the tests that look at pages, where none is on the PATH: 240 MB

.venv-browser/.installed: tools/browser/install.sh tools/browser/unpack.py
	tools/browser/install.sh .venv-browser $(PYTHON)

test-sglang: .venv/.installed .venv-sglang/.installed  ## All tests with real SGLang servers; make test has most of them
	$(BIN)/python -m pytest -q -m sglang

test-thorough: .venv/.installed .venv-sglang/.installed  ## What make test leaves out; before a release
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "thorough and not ($(ALONE))"; together=$$?; \
	$(BIN)/python -m pytest -q -m "sglang or (slurm and thorough)" && exit $$together

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
	$(BIN)/python -m aspo_megatron.plan.readme $$(grep -l '^<!-- plan -->' examples/*/README.md | xargs -n 1 dirname)
	$(BIN)/python tools/models_table.py
	$(BIN)/python tools/messages_page.py
	$(BIN)/python tools/alarms_page.py
	$(BIN)/python tools/losses_page.py

GENERATED := tests/config/test_reference.py::test_committed_reference_is_up_to_date \
    tests/plan/test_recipes.py::test_readme_has_the_plan \
    tests/evaluation/test_benchmarks.py::test_the_documentation_has_the_table \
    tests/docs/test_messages_page.py::test_the_page_is_up_to_date \
    tests/docs/test_alarms_page.py::test_the_page_is_up_to_date \
    tests/docs/test_losses_page.py::test_the_page_is_up_to_date

generated: .venv/.installed  ## Is what is generated up to date? Ten seconds; make docs makes most of it anew
	@$(BIN)/python -m pytest -q -p no:cacheprovider $(GENERATED)

hooks: .venv/.installed  ## Have git ask make lint before a commit, make types before a push
	$(BIN)/pre-commit install

release-check: .venv/.installed  ## Do version, CHANGELOG.md and tag agree, and do wheel and sdist work? They are left in dist/
	tools/release_check.sh $(BIN)/python

site: .venv/.installed  ## The documentation as pages to read in a browser, with search and a reference: build/site/index.html
	$(BIN)/python tools/site/build.py build/site

# torch first and by itself, at its pinned version: nothing else may then choose another build of it.
.venv/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

$(MODEL)/config.json: | .venv/.installed
	$(BIN)/python -W ignore examples/quickstart/fetch_smollm2.py $(MODEL)
