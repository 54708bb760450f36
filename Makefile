# `make demo` and `make test` are all a newcomer needs; both create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The stamp changes when the dependencies do.
READY := $(VENV)/.ready

.PHONY: demo test test-quick check format bench bench-prune clean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY) ## a trained detector: pruned, recovered without labels, int8, compiled, judged before and after
	@rm -rf out/demo && mkdir -p out/demo
	$(BIN)/graphopt zoo export shapes-detector -o out/demo/detector.onnx
	$(BIN)/graphopt draw -o out/demo/drawn --count 800
	$(BIN)/graphopt evaluate out/demo/detector.onnx --data shapes:test --task detection
	$(BIN)/graphopt optimize out/demo/detector.onnx -o out/demo/small.onnx --data out/demo/drawn/images \
		--prune macs=0.5 --recover epochs=15,batch=16,optimizer=adamw,lr=0.004 --quantize int8 --target host --report out/demo/report
	$(BIN)/graphopt evaluate out/demo/small.onnx --data shapes:test --task detection

test: $(READY) ## every test, the slow ones last
	$(BIN)/python -m pytest -n 2 -m "not slow"
	$(BIN)/python -m pytest -n 2 -m slow

test-quick: $(READY) ## the tests that take seconds
	$(BIN)/python -m pytest -n 2 -m "not slow"

format: $(READY) ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(READY) ## what CI does: format, lint, types, tests, wheel contents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python .ci/types.py
	$(MAKE) test
	$(BIN)/python .ci/wheel.py

bench-prune: $(READY) ## pruning beside Torch-Pruning and onnxsim: coverage, speed, accuracy
	$(BIN)/python -m benchmarks.prune_coverage
	$(BIN)/python -m benchmarks.prune_speed
	$(BIN)/python -m benchmarks.prune_accuracy

bench: $(READY) ## the comparison with other simplifiers
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.simplify --json out/bench/simplify.json --markdown docs/benchmarks.md

clean: ## remove everything made here
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
