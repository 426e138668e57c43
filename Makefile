# Two commands for people: `make demo` does the main job end to end, `make test` runs every check. Each makes .venv itself.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := train,onnxruntime,tensorrt-rtx,chips,test,dev

.PHONY: demo test lint unit peers benchmarks clean

demo: .venv/installed
	$(BIN)/python examples/demo.py

test: lint unit

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# What other frameworks read of our files: in an environment of theirs.
peers: .venv/installed .venv-peers/installed
	$(BIN)/python -m pytest -m peers

benchmarks: .venv/installed
	$(BIN)/python benchmarks/training_memory.py
	$(BIN)/python benchmarks/training_time.py
	$(BIN)/python benchmarks/loading_events.py
	$(BIN)/python benchmarks/loading_images.py
	$(BIN)/python benchmarks/export_cost.py
	$(BIN)/python benchmarks/inference_latency.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/chips.py
	$(BIN)/python benchmarks/loihi2.py
	$(BIN)/python benchmarks/quick_recipes.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

.venv-peers/installed: tests/peers/requirements.txt tests/peers/requirements-no-deps.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r tests/peers/requirements.txt
	.venv-peers/bin/python -m pip install --quiet --no-deps -r tests/peers/requirements-no-deps.txt
	touch $@

clean:
	rm -rf .venv .venv-peers demo
