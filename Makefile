# Two targets do everything: `make demo` and `make test`. Both build .venv first; both can be run again at any time.
PYTHON ?= python3
DEMO ?= demo
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/python tools/make_demo_data.py $(DEMO)/data
	$(BIN)/python tools/run_net.py --cfg configs/demo/uniformer_tiny.yaml \
		DATA.PATH_TO_DATA_DIR $(DEMO)/data DATA.PATH_PREFIX $(DEMO)/data DATA.CLASS_NAMES $(DEMO)/data/classes.txt \
		OUTPUT_DIR $(DEMO)/run

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(DEMO)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "videobench needs Python 3.10 or newer; name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "could not make $(VENV): is the venv module there (on Debian and Ubuntu: apt install python3-venv)?" >&2; \
		  rm -rf $(VENV); exit 1; }

$(VENV)/.installed: setup.py $(VENV)/bin/python
	@echo "Installing videobench and what it needs into $(VENV): some gigabytes the first time, then nothing."
	@$(BIN)/python -m pip install --disable-pip-version-check --editable . || \
		{ echo "pip could not install the packages named in setup.py: the lines above say which one failed and why" >&2; \
		  echo "(no connection, no space left, or no build for this Python). Run the same make command again to go on." >&2; \
		  exit 1; }
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[test]' || \
		{ echo "pip could not install the test tools named in setup.py: the lines above say which one failed and why" >&2; \
		  exit 1; }
	@touch $@
