"""Graphs are run with their weights in variables, and give the same."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, feeds_of, run

from tf_bnfold.formats.model import Model
from tf_bnfold.verify.session import opened
from tf_bnfold.verify.weights import with_variable_weights

SHAPE = (3, 3, 16, 256)  # 147 kB in float32


def weights(dtype=np.float32):
    return tf.constant(np.random.default_rng(0).normal(size=SHAPE).astype(dtype), name="weights")


def ops(graph_def):
    return [node.op for node in graph_def.node if node.name.startswith("weights")]


@pytest.mark.parametrize("dtype", [np.float16, tf.bfloat16.as_numpy_dtype, np.float32, np.float64])
def test_the_values_stay(dtype):
    built = build(lambda: tf.reduce_sum(weights(dtype), [0, 1]) * tf.constant(2, dtype))
    before = built.graph_def.SerializeToString(deterministic=True)
    slim, values = with_variable_weights(built.graph_def)
    assert built.graph_def.SerializeToString(deterministic=True) == before
    assert ops(slim) == ["VarHandleOp", "ReadVariableOp"]
    assert slim.ByteSize() < 10_000
    assert [value.dtype for value in values.values()] == [dtype]
    tensor = f"{built.outputs[0]}:0"
    with opened(Model(built.graph_def, {})) as runner:
        (found,) = runner.run([tensor], {})
        (again,) = runner.run(["weights:0"], {})
    assert np.array_equal(found, run(built.graph_def, [tensor], {})[0])
    assert np.array_equal(again, next(iter(values.values())))


def test_shapes_are_known():
    built = build(lambda: tf.nn.conv2d(g.placeholder(1, 8, 8, 16), weights(), 1, "SAME", name="conv"))
    with opened(Model(built.graph_def, {})) as runner:
        ((_, shape),) = runner.outputs(["conv"])["conv"]
        (found,) = runner.run(["conv:0"], feeds_of(built.graph_def, 0, 1.0))
    assert shape == (1, 8, 8, 256)
    np.testing.assert_allclose(
        found, run(built.graph_def, ["conv:0"], feeds_of(built.graph_def, 0, 1.0))[0], rtol=1e-5, atol=1e-4
    )


def test_what_stays_a_constant():
    """Small ones and integers, of which TensorFlow infers shapes; splats; one that waits; one whose name is taken."""

    def graph():
        tf.constant(np.zeros(1 << 16, np.int32), name="weights/integers")
        tf.constant(1.0, shape=[1 << 16], name="weights/splat")
        tf.constant(np.ones(8, np.float32), name="weights/small")
        with tf.control_dependencies([g.placeholder(2)]):
            tf.constant(np.random.normal(size=SHAPE).astype(np.float32), name="weights/waiting")
        tf.constant(0.0, name="weights/tf_bnfold_variable")
        return weights()

    slim, values = with_variable_weights(build(graph).graph_def)
    assert set(ops(slim)) == {"Const"}
    assert not values


def test_a_weight_that_a_loop_of_tf1_reads():
    def graph():
        kernel = weights()
        body = lambda i, total: (i + 1, total + tf.reduce_sum(kernel))  # noqa: E731
        return tf.identity(tf.while_loop(lambda i, _: i < 3, body, (0, 0.0))[1], name="out")

    tf.compat.v1.disable_control_flow_v2()
    try:
        built = build(graph)
    finally:
        tf.compat.v1.enable_control_flow_v2()
    assert "Enter" in {node.op for node in built.graph_def.node}
    with opened(Model(built.graph_def, {})) as runner:
        (found,) = runner.run(["out:0"], {})
    np.testing.assert_allclose(found, run(built.graph_def, ["out:0"], {})[0], rtol=1e-5)


def test_a_damaged_constant_is_left_to_tensorflow():
    """A dtype that is none, bytes that are no tensor of the shape, no value at all."""
    for damage in (
        lambda node: setattr(node.attr["value"].tensor, "dtype", 0),
        lambda node: setattr(node.attr["value"].tensor.tensor_shape.dim[0], "size", 4),
        lambda node: node.attr.pop("value"),
    ):
        graph_def = build(weights).graph_def
        damage(next(node for node in graph_def.node if node.op == "Const"))
        slim, values = with_variable_weights(graph_def)
        assert not values
        assert list(slim.node) == list(graph_def.node)
