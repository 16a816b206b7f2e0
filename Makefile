# `make demo` and `make test` need Python >= 3.11 and the Python package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
STAMP := $(VENV)/.installed-$(VERSION)
DEMO := runs/demo
CONFIG := configs/mdlm.py:e2e_demo

.PHONY: install demo test lint clean

install: $(STAMP)

# One environment; asking for another Python version builds it anew.
$(STAMP): pyproject.toml requirements.txt
	@$(PYTHON) -c '' || { echo '$(PYTHON) does not run: name a Python with make PYTHON=...'; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'textdiffusion needs Python >= 3.11: make PYTHON=python3.12 ...'; exit 2; }
	@test -e $(STAMP) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: install
	$(BIN)/python -m launch.demo --config=$(CONFIG) --workdir=$(DEMO) --resume
	@echo "Open $(DEMO)/report.html in a browser."

test: install
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)

clean:
	rm -rf $(VENV)
