"""The oracle computes what TensorFlow computes: held against float32 runs of the same graphs.

Where the CPU has no kernel (some of NCHW), XLA's compiler is the other implementation.
"""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import Built, build, feeds_of, run
from oracle import to_float64
from tensorflow.core.framework import graph_pb2
from test_fold_laws import CASES as LAWS
from test_fold_laws import NCHW, POOLS
from test_fold_sinks import CASES as SINKS

raw = tf.raw_ops


def compiled(built: Built, names, feeds):
    """Run a graph as XLA compiles it, which has no placeholders."""
    graph_def = graph_pb2.GraphDef(
        node=[n for n in built.graph_def.node if n.op != "Placeholder"], versions=built.graph_def.versions
    )

    @tf.function(jit_compile=True)
    def call(values):
        return tf.graph_util.import_graph_def(
            graph_def, input_map=dict(zip(feeds, values, strict=True)), return_elements=names
        )

    return [value.numpy() for value in call([tf.constant(value) for value in feeds.values()])]


def assert_agrees(function, rtol=1e-5):
    """The float64 graph gives the float32 graph's values, under the same names."""
    built = build(function)
    names, feeds = [name if ":" in name else f"{name}:0" for name in built.outputs], feeds_of(built.graph_def, 0, 1.0)
    wide = {name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in feeds.items()}
    exact = run(to_float64(built.graph_def), names, wide)
    try:
        found = run(built.graph_def, names, feeds)
    except tf.errors.OpError:
        found = compiled(built, names, feeds)
    for a, b in zip(exact, found, strict=True):
        assert a.dtype == np.float64
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= rtol * np.abs(a).max()


@pytest.mark.parametrize("case", SINKS, ids=lambda case: case.name)
def test_linear_ops(case):
    assert_agrees(lambda: case.sink(case.source()))


@pytest.mark.parametrize("case", LAWS, ids=lambda case: case.name)
def test_other_ops(case):
    assert_agrees(lambda: tf.identity(case.op(g.placeholder(2, 5, 6, 4)), name="out"))


@pytest.mark.parametrize("case", POOLS, ids=lambda case: case.name)
def test_pools_of_volumes(case):
    assert_agrees(lambda: case.op(g.volume()))


@pytest.mark.parametrize("case", NCHW, ids=lambda case: case.name)
def test_pools_of_nchw(case):
    assert_agrees(lambda: case.op(g.nchw()))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norms(version, layout, training):
    def graph():
        x = g.image() if layout == "NHWC" else g.nchw()
        return g.norm(x, version=version, layout=layout, training=training, epsilon=0.01)

    assert_agrees(graph)


@pytest.mark.parametrize("layout", ["NDHWC", "NCDHW"])
def test_batch_norms_of_volumes(layout):
    assert_agrees(lambda: g.norm(g.volume(layout=layout), layout=layout))


def test_statistics():
    assert_agrees(lambda: list(g.norm_outputs(g.image()))[1:3])


def test_default_attributes():
    """What a graph leaves out has its default: epsilon 1e-4, is_training true, alpha 0.2."""

    def graph():
        built = build(lambda: raw.LeakyRelu(features=g.norm(g.image(), training=True, epsilon=1e-4)))
        for node in built.graph_def.node:
            for name in ("is_training", "epsilon", "alpha", "data_format"):
                if name in node.attr:
                    del node.attr[name]
        return built

    assert_agrees(graph)


@pytest.mark.parametrize("scale_after", [True, False])
def test_global_normalisation(scale_after):
    """TensorFlow 2 has no such op left; its documentation's formula, in float64, is what it is held against."""

    def graph():
        return g.tf1_graph(g.global_norm(g.image(), scale_after=scale_after))

    built = build(graph)
    constants = {
        n.name: tf.make_ndarray(n.attr["value"].tensor).astype(np.float64)
        for n in built.graph_def.node
        if n.op == "Const"
    }
    node = next(n for n in built.graph_def.node if n.op == "BatchNormWithGlobalNormalization")
    mean, variance, beta, gamma = (constants[name] for name in node.input[1:])
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 3))
    expected = (x - mean) / np.sqrt(variance + np.float32(g.EPSILON))
    expected = expected * gamma + beta if scale_after else expected + beta
    assert np.allclose(run(to_float64(built.graph_def), ["bn:0"], {"x:0": x})[0], expected, rtol=1e-12)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_biases(layout):
    assert_agrees(lambda: g.bias(g.image() if layout == "NHWC" else g.nchw(), layout))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("op", ["DepthToSpace", "SpaceToDepth"])
def test_depth_and_space(op, layout):
    shape = (2, 4, 6, 8) if layout == "NHWC" else (2, 8, 4, 6)
    assert_agrees(lambda: getattr(raw, op)(input=g.placeholder(*shape), block_size=2, data_format=layout))


def test_half_types_are_computed_in_full():
    """Their rounding is left out, but what is stored rounded stays rounded."""

    def graph():
        stored = tf.cast(tf.cast(g.numbers([1.0 + 2**-12, 3.0]), tf.float16), tf.float32)
        return tf.cast(tf.cast(g.placeholder(2), tf.float16), tf.float32) * stored

    built = build(graph)
    x = np.array([1.0 + 2**-12, 2.0])
    assert np.array_equal(run(to_float64(built.graph_def), [f"{built.outputs[0]}:0"], {"x:0": x})[0], x * [1.0, 3.0])


def test_names_and_edges_survive():
    """Every node has its name, control edges, and outputs beyond the first."""

    def graph():
        x = g.image(4)
        with tf.control_dependencies([raw.NoOp(name="before")]):
            a, b = tf.split(g.norm(x), 2, 3, name="parts")
        return [tf.add(a, b, name="out")]

    built = build(graph)
    names = {node.name for node in built.graph_def.node}
    wide = {node.name: node for node in to_float64(built.graph_def).node}
    assert names <= set(wide)
    assert {"parts", "parts:1"} <= {name.split(":0")[0] for name in wide["out"].input}
    assert any(name == "^before" for name in wide["parts"].input) or any(
        "^before" in node.input for node in wide.values()
    )
