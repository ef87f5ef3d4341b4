# Each target works in a clean clone: it makes .venv, installs into it and runs there.
#   make demo        train a small model, fold and convert it, print the report
#   make test        lint, types, tests with branch coverage
#   make test-slow   the tests that take minutes
#   make test-versions  some of the tests with the oldest TensorFlow that setup.py admits, and with the newest
#   make bazel-test  convert the demo's model in a Bazel build, without network; installs Debian's Bazel and Gradle
#   make fuzz        damage models at random for SECONDS, ten minutes by default, from the seed FIRST on
#   make docs        write the pages of docs/ that come from the code
#   make applications  convert keras.applications beside the stock converter, and write docs/applications.md
#   make networks    convert networks for phones beside the stock converter, and write docs/networks.md
#   make quantisation  quantise the models of MODELS with the fold and without, and write docs/quantisation_table.md
#   make bench       measure fold, command, latency and accuracy (BENCH=latency: that group), and write docs/benchmarks.md
#   make clean       remove what the others made

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# onnxruntime sends what it runs to its makers, unless it is told not to.
export ORT_DISABLE_TELEMETRY := 1

OLDEST := 2.16.1
# Reading, folding, verifying, converting, quantising, failing.
SMOKE  := tests/test_end_to_end.py tests/test_museum.py tests/test_formats_saved_model.py tests/test_formats_tflite.py \
          tests/test_errors_table.py tests/test_keras_input.py tests/test_onnx.py tests/test_quantize.py \
          tests/test_representative_data.py tests/test_lite.py tests/test_gpu.py

.PHONY: demo test test-slow test-versions smoke android-packages bazel-test fuzz docs applications networks quantisation \
        bench clean

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

# Two environments of their own; that of the newest is always made anew.
test-versions:
	rm -rf .venv-newest
	$(MAKE) smoke VENV=.venv-oldest PIN=tensorflow==$(OLDEST)
	$(MAKE) smoke VENV=.venv-newest

smoke: $(VENV)/.test
	$(BIN)/python -m pip list --disable-pip-version-check | grep -E '^(tensorflow|keras|tf_keras|ai-edge-litert|numpy|protobuf) '
	$(BIN)/pytest -n 2 --dist loadfile $(SMOKE)

# Debian's, with the repositories that Bazel would download. tests/test_bazel.py and test_gradle.py use them too.
android-packages:
	.ci/debian bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto bazel-skylib gradle python3

bazel-test: android-packages demo/out/saved_model/saved_model.pb
	cd tests/bazel && bazel --batch test --repo_env=TF_BNFOLD_PYTHON=$(abspath $(BIN))/python //...

demo/out/saved_model/saved_model.pb: demo/make_model.py | $(VENV)/.demo
	$(BIN)/python demo/make_model.py demo/out/saved_model

SECONDS ?= 600
FIRST   ?= 0
fuzz: $(VENV)/.test
	$(BIN)/python tests/fuzz_models.py --seconds $(SECONDS) --first $(FIRST)

docs: $(VENV)/.demo
	$(BIN)/python docs/generate.py

# Takes half an hour, and memory for one large model at a time.
applications: $(VENV)/.test
	$(BIN)/python benchmarks/applications.py docs/applications.md

# Takes a quarter of an hour.
networks: $(VENV)/.test
	$(BIN)/python -m benchmarks.networks docs/networks.md

MODELS ?= ../shared/models
quantisation: $(VENV)/.demo
	$(BIN)/python benchmarks/quantisation.py $(MODELS) docs/quantisation_table.md

# On an idle machine, as others disturb it. tests/ holds the run in float64 that accuracy is measured beside.
BENCH ?= fold command latency accuracy
bench: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(MODELS) $(BENCH)

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest demo/out build *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp per set of packages: made once, and again only when the packaging changes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' $(PIN)
	touch $@ $(VENV)/.demo
