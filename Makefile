# Every target sets up what it needs: Python 3.11 or newer and make are enough.
# ARGS goes to the tool: make test ARGS="-k layout -x".
.DEFAULT_GOAL := help
.PHONY: help demo test test-all fast test-families test-trl test-trainers test-review test-drop-in test-versions test-accelerator \
	parity fuzz coverage notebooks slides readme-pictures \
	docs lint format lab bench clean

export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := .venv/bin
# One process for each core, up to four of about 1 GB each: see tests/README.md.
PYTEST := $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal
TESTED := .venv/.with-tiny,plot,notebook,trl,fleet,ray,test,docs .venv/.torchvision .venv/.chromium

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

demo: .venv/.with-tiny,plot ## One real bug, on tiny real models
	@$(BIN)/python -m vlmdebug demo $(ARGS)

test: $(TESTED) ## The tests, on every core
	$(PYTEST) -m "not long" $(ARGS)

test-all: $(TESTED) ## The tests and the long runs, many minutes
	$(PYTEST) $(ARGS)

fast: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## A contributor's loop: one model of each layout, under 2 minutes
	VLMDEBUG_FEW=1 $(PYTEST) -m "not slow and not long" $(ARGS)

test-families: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test .venv/.torchvision ## The tests of every layout family
	$(PYTEST) tests/test_families.py tests/test_tiny.py tests/test_probe.py \
		tests/test_coverage.py tests/test_streams.py tests/test_pictures.py tests/test_torchvision.py $(ARGS)

test-trl: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## Test several TRL releases, minutes
	$(BIN)/python tools/trl_releases.py $(ARGS)

test-trainers: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## Test other trainers, many minutes
	$(BIN)/python tools/$(or $(filter collators packers shards,$(ARGS)),trainers).py $(filter-out collators packers shards,$(ARGS))

test-review: .venv/.with-test ## Review several releases of other trainers
	$(BIN)/python tools/reviews.py $(ARGS)

test-drop-in: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## Run docs/drop_in in each trainer's environment, minutes
	$(BIN)/python tools/drop_in.py $(ARGS)

test-versions: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## Test other releases of Python, torch, transformers; gigabytes
	$(BIN)/python tools/versions.py $(ARGS)

test-accelerator: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## Judge, watch and prove on a GPU as on the CPU
	$(BIN)/python tools/accelerator.py $(ARGS)

parity: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## What changed between releases of trainers since the last run; hours
	$(BIN)/python tools/parity.py $(ARGS)

fuzz: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test .venv/.torchvision ## Judge thousands of broken slicers and batches, many minutes
	$(BIN)/python tools/fuzz.py $(ARGS)

coverage: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test .venv/.torchvision ## Run every architecture of transformers again
	$(BIN)/python tools/coverage.py

notebooks: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## Run the notebooks again and store their output
	$(BIN)/python tools/notebooks.py $(ARGS)

slides: .venv/.with-tiny,plot ## Figures for slides: SVG and PNG, light and dark, in slides/
	$(BIN)/python tools/slides.py $(ARGS)

readme-pictures: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test .venv/.chromium ## Make the pictures of the README again
	$(BIN)/python tools/tape.py
	$(BIN)/python tools/pictures.py

docs: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test,docs ## Build the docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "wrote docs/_build/html/index.html"

lint: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test,dev ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright && $(BIN)/python tools/public_types.py

format: .venv/.with-dev ## Format and fix what ruff can: the hook of pre-commit
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: .venv/.with-tiny,plot,notebook ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks $(ARGS)

bench: .venv/.with-tiny,plot,notebook,trl,fleet,ray,test ## Benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove what make made
	rm -rf .venv vlmdebug-demo

# The first Python that runs and is new enough. The stamp is not $(BIN)/python: a virtual
# environment that was only half made, without pip, is made again.
.venv/.made:
	@for python in $(or $(PYTHON),python3.11 python3); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		"$$python" -m venv .venv && touch $@ && exit 0; \
		echo "$$python could not make .venv; on Debian and Ubuntu, install python3-venv" >&2; \
		exit 1; \
	done; \
	echo "vlmdebug needs Python 3.11 or newer; try make PYTHON=/path/to/python3.11" >&2; \
	exit 1

# torchvision's own code for the tests of image processors that need it, outside the environment
# and without its compiled part, which wants CUDA: see tests/architectures.py.
.venv/.torchvision: constraints.txt | .venv/.made
	@$(BIN)/python tools/install.py --beside .venv/torchvision timm torchvision
	@touch $@

# Debian's Chromium for the tests of what a person sees; without it they are skipped.
.venv/.chromium: | .venv/.made
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		echo "Installing Debian's chromium and fonts-liberation" && apt-get -qq update && \
		apt-get -qq -y install --no-install-recommends chromium fonts-liberation >/dev/null; \
	} || echo "There is no Chromium: the browser tests will be skipped. Install chromium." >&2
	@touch $@

# One stamp per set of extras, named after them.
.venv/.with-%: pyproject.toml constraints.txt | .venv/.made
	@$(BIN)/python tools/install.py $*
	@touch $@
