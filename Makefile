# Two commands a newcomer needs: `make repro` and `make test`. Both set everything up with pip alone.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# what is encoded by the benchmarks
BENCH_MUSIC ?= data/sample/audio/empty-letter.opus
# music that the codec is trained on, composed when it is absent; the table is written last
PRACTICE := .scratch/practice/metadata.csv
# nothing of ours calls home
export DO_NOT_TRACK = 1
export DVC_NO_ANALYTICS = 1

.PHONY: help env repro test bench faults codec deps clean

help:            ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

env: $(STAMP)    ## the environment in .venv, every version pinned

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

repro: env       ## the whole pipeline; only what changed is run
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@echo "listen: $(CURDIR)/data/demos/index.html"

test: env        ## lint, types, import direction, the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	PYTHONPATH=src:. $(BIN)/lint-imports
	$(BIN)/python -m pytest

bench: env       ## speed of every heavy part beside peers and the machine's own, as ratios
	PYTHONPATH=src $(BIN)/python tests/benchmarks/language_model.py
	PYTHONPATH=src:. $(BIN)/python tests/benchmarks/training.py nano --turns 7
	PYTHONPATH=src:. $(BIN)/python tests/benchmarks/training.py small --turns 3 --only bf16 compile recompute
	PYTHONPATH=src OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/benchmarks/normalize.py
	PYTHONPATH=src $(BIN)/python tests/benchmarks/encode.py bundled $(BENCH_MUSIC)
	PYTHONPATH=src $(BIN)/python tests/benchmarks/encode.py official $(BENCH_MUSIC)

faults: env      ## the slow tests: real servers, compiling, the pipeline end to end
	$(BIN)/python -m pytest tests -m slow

codec: env $(PRACTICE) ## train the bundled codec from nothing, or go on (resumable, hours)
	$(BIN)/python pipeline/commands/codec.py train

$(PRACTICE):
	@command -v fluidsynth > /dev/null || { echo "make codec plays its practice music with FluidSynth, see data/sample/README.md" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compose]'
	$(BIN)/python -m data.sample.compose practice $(@D) --minutes 112

deps: env        ## write each stage's import closure into dvc.yaml
	PYTHONPATH=src:. $(BIN)/python tests/contracts/code_deps.py

clean:           ## remove the environment and every result, keep the source
	rm -rf $(VENV) .scratch data/ingest data/normalize data/encode data/index data/overfit data/train data/evaluate data/demos data/metrics
