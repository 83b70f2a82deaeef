# Two commands for a fresh clone: `make audit` runs the audit, `make test` passes the gate.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTHONS ?= python3.11 python3.12 python3.13
AUDIT  ?=

.PHONY: audit test lint slow gpu gpu-record browser pythons bench gallery tutorials docs wheel clean

audit: $(VENV)/.installed
	$(BIN)/cblr audit $(AUDIT)

test: lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

gpu: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m gpu

# Stages of eight minutes that go on where they stopped; see docs/gpu.md.
gpu-record: $(VENV)/.installed-test
	$(BIN)/python -W ignore benchmarks/gpu_record.py $(RECORD)

# The report and the site. Needs Debian's packages chromium and chromium-driver, or their like.
browser: $(VENV)/.installed-test docs
	$(BIN)/python -m pytest -m browser

# The whole gate on each of the interpreters that are at hand.
pythons:
	@for python in $(PYTHONS); do \
	  if $$python -c '' 2> /dev/null; then \
	    echo "== $$($$python -V)"; \
	    $(MAKE) --no-print-directory VENV=.venv-$$(basename $$python) PYTHON=$$python test || exit; \
	  else echo "== $$python is not at hand"; fi; \
	done

# Without dependencies: BackPACK names torchvision, which nothing here uses, and none may pick a torch.
bench: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt backpack-for-pytorch unfoldNd einops \
	  curvlinops-for-pytorch einconv linear_operator opt_einsum jaxtyping wadler_lindig
	$(BIN)/python -W ignore benchmarks/diagonal.py

# The pages under docs/theory that are generated from the code, every step of them checked.
gallery: $(VENV)/.installed
	$(BIN)/python -m theory.gallery

# Those that are older than their source or the packages are executed again.
tutorials: $(VENV)/.installed-docs
	$(BIN)/python docs/tools/tutorials.py

# The site, into build/site. The variable silences an advertisement.
docs: $(VENV)/.installed-docs tutorials
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Source distribution and, from it, the wheel; with the build tool alone.
wheel: build/venv/.installed
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt build/venv/bin/python -m build

build/venv/.installed: constraints.txt
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install --quiet -c constraints.txt build
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cblr needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact pin, so that nothing else decides which build is taken.
$(VENV)/.installed: $(BIN)/python constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[audit]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf .venv* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
