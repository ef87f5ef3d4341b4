"""A channel that rounding alone moves is no fault; what moves it further is."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from checker import build
from faults import altered, compare, constant_of

import tf_bnfold
from tf_bnfold import verify
from tf_bnfold.errors import VerificationError
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.model import Model
from tf_bnfold.table import table
from tf_bnfold.verify import inner
from tf_bnfold.verify.measure import within_rounding
from tf_bnfold.verify.rounding import rounding, with_rounded_constants
from tf_bnfold.verify.values import Difference, LeftOut

SECOND = "StatefulPartitionedCall/StatefulPartitionedCall/second:0"
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
    assert tensors.by_rounding == (SECOND,)
    monkeypatch.setattr(inner, "allowing", lambda found, *_: dict(found))
    _, tensors = compare(cancelling, folded)
    assert tensors.failed == (SECOND,)


def difference_of_twins(folder: str, size: float) -> str:
    """A model whose whole output is the small difference of two values that are so large."""
    random = np.random.default_rng(0)
    twin = random.normal(size=(16, 1))
    first = tf.Variable(np.float32(np.hstack([size * twin, size * twin, random.normal(size=(16, 1))])))
    gamma = np.float32([1.1, 0.7, 1.3])
    second = tf.Variable(np.float32([[1 / 1.1], [-1 / 0.7], [0.5]]))

    def call(x):
        return {"y": tf.matmul(tf.matmul(x, first) * gamma + np.float32(0.5), second)}

    return saved_models.saved(folder, call, tf.TensorSpec([32, 16], name="x"), variables=[first, second])


def test_an_output_that_rounding_moves_is_no_fault(tmp_path):
    path = difference_of_twins(str(tmp_path / "model"), 1e4)
    findings = compare(path, folded)
    verify.require_verified(findings)
    assert findings[0].by_rounding == ("serving_default: y",)
    assert findings[0].error > 1e-3
    report = tf_bnfold.convert(path, tmp_path / "out.tflite")
    measured = {each.compared: each for each in report.run.measurements}
    assert measured["folded graph with the SavedModel"].by_rounding == 1
    text = " ".join(table(report, width=300, colour=False).split())
    assert "of 1 tensor the limit is what rounding alone may make on these inputs" in text

    def wrong(frozen):
        return altered(folded(frozen), constant_of(folded(frozen), "BiasAdd"), lambda value: value + 1e3)

    assert compare(path, wrong)[0].failed == ("serving_default: y",)


def test_what_rounding_alone_decides_is_not_verified(tmp_path):
    findings = compare(difference_of_twins(str(tmp_path / "model"), 1e6), folded)
    with pytest.raises(VerificationError, match=r"not verified, .*: rounding alone moves it as far on these inputs"):
        verify.require_verified(findings)


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


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize(
    ("off", "moved", "accepted"),
    [
        ([0, 5e-4], [0, 1e-4], True),
        ([0, 2e-2], [0, 1e-4], False),
        ([0, 5e-3], [0, 0], False),
        ([0, 5e-3], [0, np.nan], False),
        ([0, np.nan], [0, 1e-3], False),
    ],
)
def test_a_difference_within_rounding(axis, off, moved, accepted):
    original = np.float32([[1.0, 0.1], [-1.0, -0.1]])
    result, rounded = original + np.float32(off), [original, original + np.float32(moved)]
    found = Difference(0.5, 0.5, 1e-4)
    within = within_rounding(found, result, original, rounded, axis)
    if accepted:
        assert not within.failed
        assert within.by_rounding
        assert within.error == pytest.approx(5e-4, rel=1e-3)
        assert within.limit == pytest.approx(8e-4, rel=1e-3)
    else:
        assert within is found


def test_another_channel_explains_nothing():
    """Unless rounding moves the whole tensor further than was to be accepted, and no channel can be told apart."""
    original = np.float32([[1.0, 0.1]])
    found = Difference(2e-4, 0.5, 1e-3)
    for moved, off, accepted in (
        ([0, 1e-4], [5e-3, 0], False),
        ([1e-4, 0], [0, 5e-4], False),
        ([0, 1e-4], [0, 5e-4], True),
        ([1e-3, 0], [0, 5e-4], True),
    ):
        within = within_rounding(found, original + np.float32(off), original, [original + np.float32(moved)], -1)
        assert (within is not found) is accepted


def test_a_limit_that_is_none_says_nothing():
    original = np.float32([[1.0, 1.0]])
    found = Difference(1e-2, 0.5, 1e-3)
    within = within_rounding(found, original + np.float32(1e-2), original, [original + np.float32(2e-2)], None)
    assert (within.error, within.left_out) == (None, LeftOut.ROUNDING)
    assert within.with_run(Difference(0.0, 0.0, 1e-3)).left_out is None
    assert within_rounding(found, original + np.float32(1), original, [original + np.float32(2e-2)], None) is found


def test_another_shape_explains_nothing():
    original = np.ones((2, 2), np.float32)
    found = Difference(1e-2, 0.5, 1e-3)
    assert within_rounding(found, original, original, [original[:1]], -1) is found


def test_the_worse_of_two_runs_is_told():
    """Worse in terms of its own limit."""
    moved, calm = Difference(5e-2, 0.0, 1e-1, by_rounding=True), Difference(9e-4, 0.0, 1e-3)
    for whole in (moved.with_run(calm), calm.with_run(moved)):
        assert (whole.error, whole.limit, whole.by_rounding) == (9e-4, 1e-3, True)
    failed = Difference(2e-3, 0.1, 1e-3)
    assert moved.with_run(failed).failed
