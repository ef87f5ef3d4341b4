"""A channel that rounding alone moves is no fault; what moves it further is."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from checker import build
from faults import compare

from tf_bnfold import verify
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.model import Model
from tf_bnfold.verify import inner
from tf_bnfold.verify.measure import is_rounding
from tf_bnfold.verify.rounding import rounding, with_rounded_constants

SIZE = 3e3  # of what cancels, where what is left of it is about 0.1


@pytest.fixture(scope="module")
def cancelling(tmp_path_factory):
    """A model with a channel that is the small difference of two large ones, which are folded apart."""
    random = np.random.default_rng(0)
    twin = random.normal(size=(16, 1))
    first = tf.Variable(np.float32(np.hstack([SIZE * twin, SIZE * twin, random.normal(size=(16, 2))])))
    gamma = np.float32([1.1, 0.7, 1.3, 0.9])
    second = tf.Variable(np.float32([[1 / 1.1, 0], [-1 / 0.7, 0], [0.05, 1], [0.03, 1]]))

    def call(x):
        return {"y": tf.matmul(tf.matmul(x, first) * gamma + np.float32(0.5), second, name="second")}

    folder = str(tmp_path_factory.mktemp("rounding") / "model")
    return saved_models.saved(folder, call, tf.TensorSpec([32, 16], name="x"), variables=[first, second])


def folded(frozen: Model) -> Model:
    return frozen.with_graph(fold_graph(frozen.graph_def, frozen.outputs(), frozen.inputs()).graph_def)


def test_what_rounding_moves_is_no_fault(cancelling, monkeypatch):
    outputs, tensors = compare(cancelling, folded)
    verify.require_verified((outputs, tensors))
    monkeypatch.setattr(inner, "is_rounding", lambda *_: False)
    _, tensors = compare(cancelling, folded)
    assert tensors.failed == ("StatefulPartitionedCall/StatefulPartitionedCall/second:0",)


@pytest.mark.parametrize(("dtype", "step"), [(np.float32, 2.0**-23), (np.float64, 2.0**-52)])
def test_each_constant_is_off_by_one_rounding(dtype, step):
    def graph():
        weights = tf.constant(np.arange(1, 201).reshape(100, 2), dtype, name="weights")
        alone = tf.constant(3, dtype, name="alone")
        with tf.control_dependencies([tf.no_op()]):
            waits = tf.constant([1, 2], dtype, name="waits")
        return tf.identity(weights, "read"), tf.identity(alone, "one"), tf.identity(waits, "late")

    graph_def = build(graph).graph_def
    before = graph_def.SerializeToString(deterministic=True)
    exact = np.arange(1, 201).reshape(100, 2)
    with rounding(Model(graph_def, {})) as rounded:
        weights, alone, late = rounded(["read:0", "one:0", "late:0"], {})
    assert graph_def.SerializeToString(deterministic=True) == before
    for value in weights:
        assert value.dtype == dtype
        off = (value.astype(np.longdouble) - exact) / exact
        assert (off != 0).all()
        assert np.abs(off).max() <= 1.5 * step
        assert {-1, 1} == set(np.sign(off).ravel().astype(int))
    assert len({value.tobytes() for value in weights}) == len(weights) == 4
    assert {float(value) for value in alone} == {3.0}
    assert {tuple(value) for value in late} == {(1.0, 2.0)}


def test_integers_and_names_stay():
    graph_def = build(lambda: tf.reshape(g.rows(4) @ g.const(4, 6), g.numbers([-1, 3, 2], tf.int32))).graph_def
    rounded = with_rounded_constants(graph_def)
    assert [node.name for node in graph_def.node] == [node.name for node in rounded.node][: len(graph_def.node)]
    constants = [node for node in graph_def.node if node.op == "Const"]
    assert [node for node in rounded.node if node.name in {each.name for each in constants}] == constants


def test_is_rounding():
    original = np.float32([[1.0, 0.1], [-1.0, -0.1]])
    limit, moved = 1e-3, original + np.float32([0, 1e-4])
    assert is_rounding(original + np.float32([0, 5e-4]), original, [original, moved], -1, limit)
    assert not is_rounding(original + np.float32([0, 2e-3]), original, [original, moved], -1, limit)
    assert not is_rounding(original + np.float32([0, 5e-4]), original, [original], -1, limit)
    assert not is_rounding(original + np.float32([5e-3, 0]), original, [moved], -1, limit)
    assert not is_rounding(original + np.float32([0, 5e-4]), original, [moved[:1]], -1, limit)
    assert not is_rounding(original * np.float32([1, np.nan]), original, [moved], -1, limit)
