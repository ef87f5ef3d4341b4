# Each target works in a clean clone: it makes .venv, installs into it and runs there.
#   make demo        train a small model, fold and convert it, print the report
#   make test        lint, types, tests with branch coverage
#   make test-slow   the tests that take minutes
#   make docs        write the pages of docs/ that come from the code
#   make applications  convert keras.applications beside the stock converter, and write docs/applications.md
#   make clean       remove what the others made

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-slow docs applications clean

demo: $(VENV)/.demo
	$(BIN)/python demo/make_model.py demo/out/saved_model
	$(BIN)/tf_bnfold --saved_model demo/out/saved_model --tflite demo/out/model.tflite --report demo/out/report.json

# Two processes, a file in one of them: TensorFlow starts twice, not once a test.
# pytest comes last, so that its closing line is the last thing to be seen.
test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term

test-slow: $(VENV)/.test
	$(BIN)/pytest -m slow

docs: $(VENV)/.demo
	$(BIN)/python docs/generate.py

# Takes half an hour, and memory for one large model at a time.
applications: $(VENV)/.demo
	$(BIN)/python benchmarks/applications.py docs/applications.md

clean:
	rm -rf $(VENV) demo/out build *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp per set of packages: made once, and again only when the packaging changes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/.demo
