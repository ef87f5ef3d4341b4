"""A minute of tests/fuzz_models.py: models damaged at random end with one line, or convert; `make fuzz` does more."""

from __future__ import annotations

import random

import fuzz_models
import pytest
from tensorflow.core.framework import graph_pb2

SECONDS = 60


def test_damaged_models_end_with_one_line():
    count, findings = fuzz_models.fuzz(SECONDS)
    assert findings == []
    assert count >= 20  # TensorFlow's start included


def test_a_seed_is_always_the_same_damage():
    graph_def = graph_pb2.GraphDef(node=[{"name": "a", "op": "NoOp"}, {"name": "b", "op": "NoOp", "input": ["^a"]}])
    content = graph_def.SerializeToString()
    damaged = [fuzz_models.mutated(content, graph_pb2.GraphDef, random.Random(seed)) for seed in (*range(20),) * 2]
    assert damaged[:20] == damaged[20:]
    assert len(set(damaged)) > 10


@pytest.mark.parametrize(
    ("code", "said", "changed", "what"),
    [
        (70, "tf_bnfold: error: internal error\n", False, "exit code 70"),
        (2, "Traceback\ntf_bnfold: error: x\n", False, "not one line"),
        (2, "tf_bnfold: error: \x1b\n", False, "not one line"),
        (2, "tf_bnfold: error: x\n", True, "files changed"),
        (2, "tf_bnfold: error: x\n", False, ""),
        (0, "", True, ""),
    ],
)
def test_what_is_a_finding(code, said, changed, what):
    after = {"out.tflite": b"x"} if changed else {}
    found = fuzz_models.problem(code, said, {}, after)
    assert found.startswith(what)
    assert bool(found) == bool(what)
