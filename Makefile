# Every developer command; each does its own set-up. `make help` lists them.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
NATIVE := $(VENV)/.native

.PHONY: help setup system native lint test test-fast demo bench docs mutants clean

help:            ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup: system $(VENV)/.installed $(NATIVE)   ## install what is missing and build

system:          ## Debian packages (asks for sudo where it is needed)
	@tools/system-packages.sh

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	@touch $@

$(NATIVE): native/Cargo.toml native/Cargo.lock $(wildcard native/src/*.rs native/src/*/*.rs) $(VENV)/.installed
	@cd $(CURDIR) && VIRTUAL_ENV=$(CURDIR)/$(VENV) PATH="$(CURDIR)/$(VENV)/bin:$$PATH" maturin develop --release --locked --quiet
	@touch $@

native: $(NATIVE)  ## build the Rust extension into the virtual environment

lint: setup      ## style, types, layers, tidiness, Rust lints
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(PY) tools/tidy.py
	cd native && cargo clippy --quiet --all-targets --no-default-features -- -D warnings

test: lint       ## everything: lints, Rust tests, all Python tests with real guests
	cd native && cargo test --quiet --no-default-features
	$(PY) -m pytest -n 2 -m "not guest and not netns and not slow"
	$(PY) -m pytest -m "guest or netns or slow"

test-fast: setup ## the tests that need no guests and no namespaces
	$(PY) -m pytest -n 2 -m "not guest and not netns and not slow"

demo: setup      ## three nodes on this machine, real guests, two kills, a table of times
	@$(VENV)/bin/blixard dev demo

bench: setup     ## make bench NAME=slice: figures beside their bars
	@test -n "$(NAME)" || { echo "usage: make bench NAME=<one of: $$(ls bench/*.py | xargs -n1 basename | sed 's/.py//' | tr '\n' ' ')>"; exit 2; }
	$(PY) bench/$(NAME).py

mutants: setup   ## plant bugs in our own code: which oracle objects, after how many seeds
	@nice -n 19 $(PY) tools/mutants.py $(ARGS)

lock:            ## write requirements.lock from pyproject.toml
	$(VENV)/bin/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra dev --output-file requirements.lock pyproject.toml

clean:           ## remove what was built
	rm -rf $(VENV) native/target .mypy_cache .ruff_cache .pytest_cache
