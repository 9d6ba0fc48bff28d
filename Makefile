# Everything this book needs, from an empty folder: `make book` and `make test`. Needs GNU make and Python 3.11.

PYTHON ?= python3
REQUIREMENTS ?= requirements.txt
SEEDS ?= 0 1 2 3 4 5 6 7 8 9
CHAPTER ?=
BENCH ?=
PORT ?= 8000

BIN := .venv/bin
STAMP := .venv/.installed
NOTEBOOKS = $(sort $(wildcard notebooks/*.ipynb))
CODE := lib tests tools book/_ext
PAGE = file://$(CURDIR)/_build/html/index.html
PYTEST = $(BIN)/pytest -q
STRIP = $(BIN)/nbstripout --keep-count --keep-id --extra-keys 'metadata.language_info metadata.widgets'
SAY = @printf '\n== %s\n'

# One thread each: numbers then agree between machines, and two cores are not fought over.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help book test lint format strip notebooks stored library pages browser sweep bench serve publish clean
.NOTPARALLEL:

help: ## Show this list
	@printf 'make TARGET, where TARGET is one of\n\n'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@printf '\nEach makes its own environment in .venv.\n'

book: $(STAMP) ## Run every notebook that changed and build the book
	$(SAY) 'Building the book: runs the notebooks that changed, warnings are errors'
	@$(BIN)/jupyter-book build -q -W --keep-going -n .
	@printf '\nThe book is built. Open\n  %s\nor run\n  make serve\n' '$(PAGE)'

test: lint stored library book pages ## Check everything: code, notebooks, the built book in a browser
	@printf '\nAll tests passed.\n'

lint: $(STAMP) ## Check style, spelling and types
	$(SAY) 'Checking style (ruff), spelling (codespell) and types (mypy)'
	@$(BIN)/ruff check -q $(CODE) notebooks
	@$(BIN)/ruff format -q --check $(CODE) notebooks
	@$(BIN)/codespell
	@$(BIN)/mypy lib/descentmaps

format: $(STAMP) ## Rewrite code and notebooks in the house style
	$(SAY) 'Formatting code and notebooks'
	@$(BIN)/ruff check -q --fix $(CODE) notebooks
	@$(BIN)/ruff format $(CODE) notebooks

strip: $(STAMP) ## Remove stored outputs, except those of checked cells
	$(SAY) 'Stripping the outputs of unchecked cells'
	@$(STRIP) $(NOTEBOOKS)

notebooks: $(STAMP) ## Run every notebook in place, then strip it
	$(SAY) 'Running every notebook in place and keeping the outputs of checked cells'
	@DESCENTMAPS_LEDGER=$(CURDIR)/_build/ledger $(BIN)/jupyter execute --inplace $(NOTEBOOKS)
	@$(STRIP) $(NOTEBOOKS)

# The parts of `make test`, in its order.
stored: $(STAMP)
	$(SAY) 'Checking the form of the notebooks, that only checked cells keep an output, and what Binder would install'
	@$(PYTEST) tests/notebooks

library: $(STAMP)
	$(SAY) 'Testing the library'
	@$(PYTEST) -n auto tests/lib tests/benchmarks

browser: book pages

# A file goes to one worker, which visits each page once.
pages: $(STAMP)
	$(SAY) 'Testing the build, the outputs of checked cells and, in Chromium, the built book'
	@$(PYTEST) -n auto --dist loadfile tests/book

sweep: $(STAMP) ## Run chapters over seeds: make sweep SEEDS="0 1 2" CHAPTER=00-tour
	$(SAY) 'Running chapters over the seeds $(SEEDS)'
	@$(BIN)/python tools/sweep.py --seeds $(SEEDS) --chapters $(CHAPTER)

bench: $(STAMP) ## Measure speed and memory beside other packages, half an hour: make bench BENCH="--sizes 1000x10000"
	$(SAY) 'Running the benchmarks'
	@$(BIN)/python tests/benchmarks/run.py $(BENCH)

serve: $(STAMP) ## Show the built book on this machine, at a port of your choice: make serve PORT=8000
	@test -f _build/html/index.html || { printf 'Nothing is built yet: run make book first.\n' >&2; exit 1; }
	@printf '\nThe book is at http://localhost:%s/ (stop with Ctrl+C)\n' '$(PORT)'
	@$(BIN)/python -m http.server --bind localhost --directory _build/html $(PORT)

publish: book ## Put the built book on the branch gh-pages of the repository
	$(SAY) 'Publishing _build/html to the branch gh-pages'
	@$(BIN)/ghp-import --no-jekyll --push _build/html

clean: ## Remove everything that these targets made, the environment included
	$(SAY) 'Removing the environment, the built book and all caches'
	@rm -rf .venv _build .pytest_cache .ruff_cache .mypy_cache .hypothesis lib/*.egg-info lib/build notebooks/ledger
	@find . -name .git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 rm -rf

$(STAMP): $(REQUIREMENTS) lib/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { printf 'This book needs Python 3.11 or newer; %s is not. Try make PYTHON=python3.11\n' '$(PYTHON)' >&2; exit 1; }
	$(SAY) 'Making the environment .venv from $(REQUIREMENTS): a few minutes the first time'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	@touch $@
