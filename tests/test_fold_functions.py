"""Batch norms in the bodies of functions (calls, branches, loops): folded in there, and nothing crosses a call.

A known tool dropped the library, another one left all of it alone.
"""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, feeds_of, run

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def function(body, *shapes, name="body", **attributes):
    """A concrete function of float tensors."""
    signature = [tf.TensorSpec(shape, name=f"x{place}") for place, shape in enumerate(shapes)]
    wrapped = tf.function(body, input_signature=signature, experimental_attributes=attributes or None)
    return wrapped.get_concrete_function()


IMAGE = [None, 4, 4, 4]


def block(x, name="inner"):
    return g.norm(g.conv(x, 3, 1, name=f"{name}/conv"), name=f"{name}/bn")


def called(x):
    return function(block, IMAGE)(x)


def chosen(x):
    return tf.cond(raw.Placeholder(dtype=tf.bool, shape=[], name="flag"), lambda: block(x), lambda: x[..., :3])


def looped(x):
    def step(i, v):
        return i + 1, g.norm(g.conv(v, 4, 1, name="inner/conv"), name="inner/bn")

    return tf.while_loop(lambda i, _: i < 3, step, (0, x), shape_invariants=(tf.TensorShape([]), x.shape))[1]


def nested(x):
    return function(lambda v: tf.add(called(v), block(v, "outer")), IMAGE)(x)


def check(graph, rtol=1e-5):
    """Fold, and hold outputs, signatures and a second fold against the first."""
    built = build(graph)
    assert len(built.graph_def.library.function) > 0
    before = built.graph_def.SerializeToString(deterministic=True)
    folding = fold_graph(built.graph_def, built.outputs)
    assert built.graph_def.SerializeToString(deterministic=True) == before
    names = [name if ":" in name else f"{name}:0" for name in built.outputs]
    for flag in (0, 1):
        feeds = feeds_of(built.graph_def, 0, 1.0)
        feeds = {name: np.array(flag, bool) if value.dtype == bool else value for name, value in feeds.items()}
        for a, b in zip(run(built.graph_def, names, feeds), run(folding.graph_def, names, feeds), strict=True):
            assert np.abs(a - b).max() <= rtol * np.abs(a).max()
    old = {f.signature.name: f for f in built.graph_def.library.function}
    new = {f.signature.name: f for f in folding.graph_def.library.function}
    assert list(old) == list(new)
    assert all(old[name].signature == new[name].signature and old[name].attr == new[name].attr for name in old)
    again = fold_graph(folding.graph_def, built.outputs)
    assert again.graph_def.SerializeToString(deterministic=True) == folding.graph_def.SerializeToString(
        deterministic=True
    )
    return folding


def ops_of(folding):
    return {node.op for f in folding.graph_def.library.function for node in f.node_def}


@pytest.mark.parametrize("body", [called, chosen, looped, nested])
def test_bodies_are_folded(body):
    folding = check(lambda: tf.identity(body(g.norm(g.conv(g.placeholder(None, 5, 6, 3)))), name="out"))
    assert "FusedBatchNormV3" not in ops_of(folding) | {node.op for node in folding.graph_def.node}
    inside = [outcome for outcome in folding.outcomes if outcome.function]
    assert inside
    assert {outcome.status for outcome in folding.outcomes} == {Status.UP}
    assert {outcome.function for outcome in inside} <= {f.signature.name for f in folding.graph_def.library.function}


def test_nothing_crosses_a_call():
    """A batch norm behind a convolution on the other side of the call stays, on either side."""

    def graph():
        x = g.conv(g.placeholder(None, 5, 6, 3))
        y = function(lambda v: g.norm(v, name="inner"), IMAGE)(x)
        z = function(lambda v: g.conv(v, 4, 1), IMAGE)(y)
        return tf.identity(g.norm(z, name="outer"), name="out")

    folding = check(graph)
    reasons = {outcome.name: outcome.refusal.reason for outcome in folding.outcomes}
    assert reasons["inner"] is Reason.GRAPH_INPUT
    assert set(reasons) == {"inner", "outer"}


def test_parameters_that_are_captured():
    """What a body gets as an argument is no constant in it."""

    def graph():
        gamma = tf.tanh(g.placeholder(4, name="style"))
        y = function(lambda x, scale: g.norm(g.conv(x, 4, 1), gamma=scale, name="inner"), IMAGE, [4])(
            g.placeholder(*IMAGE), gamma
        )
        return tf.identity(y, name="out")

    (outcome,) = check(graph).outcomes
    assert outcome.refusal.reason is Reason.PARAMETERS_NOT_CONSTANT


def test_two_calls_of_one_body():
    def graph():
        body = function(block, IMAGE)
        x = g.placeholder(*IMAGE)
        return [tf.identity(body(x), name="a"), tf.identity(body(tf.tanh(x)), name="b")]

    folding = check(graph)
    assert [outcome.status for outcome in folding.outcomes] == [Status.UP]


def test_results_that_are_arguments_or_the_same_twice():
    def graph():
        y = function(lambda x: [x, (z := block(x)), z, tf.tanh(z)], IMAGE)(g.placeholder(*IMAGE))
        return [tf.identity(part, name=f"out{place}") for place, part in enumerate(y)]

    assert [outcome.status for outcome in check(graph).outcomes] == [Status.UP]


def test_a_result_that_is_a_convolution_is_kept():
    def graph():
        y = function(lambda x: [(z := g.conv(x, 3, 1)), g.norm(z, name="inner")], IMAGE)(g.placeholder(*IMAGE))
        return [tf.identity(part, name=f"out{place}") for place, part in enumerate(y)]

    (outcome,) = check(graph).outcomes
    assert outcome.refusal.reason in (Reason.FETCHED, Reason.SHARED)


def test_several_outputs_of_one_op():
    """A FunctionDef names outputs otherwise than a GraphDef: op:argument:index."""

    def body(x):
        a, b = tf.split(g.bias(g.conv(x, 6, 1)), [2, 4], 3)
        values, places = tf.math.top_k(tf.reshape(g.affine(b), [-1, 64]), 3)
        return [g.norm(a, name="inner"), values, tf.cast(places, tf.float32)]

    def graph():
        y = function(body, IMAGE)(g.placeholder(*IMAGE))
        return [tf.identity(part, name=f"out{place}") for place, part in enumerate(y)]

    assert {outcome.status for outcome in check(graph).outcomes} == {Status.UP}


def test_effects_of_a_body():
    """Control edges and assertions in a body survive."""

    def body(x):
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(x), 1e6)]):
            return block(x)

    folding = check(lambda: tf.identity(function(body, IMAGE)(g.placeholder(*IMAGE)), name="out"))
    assert any(op in ops_of(folding) for op in ("Assert", "If", "StatelessIf"))


@pytest.mark.parametrize("mark", ["_implements", "api_implements"])
def test_a_body_that_the_converter_fuses_whole_is_left_alone(mark):
    def graph():
        body = function(block, IMAGE, **{mark: "something"})
        return tf.identity(body(g.placeholder(*IMAGE)), name="out")

    built = build(graph)
    assert any(mark in f.attr for f in built.graph_def.library.function)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def


def test_keep_reaches_into_bodies():
    built = build(lambda: tf.identity(called(g.placeholder(*IMAGE)), name="out"))
    folding = fold_graph(built.graph_def, built.outputs, keep="inner/bn")
    assert folding.graph_def == built.graph_def
    assert [outcome.refusal.reason for outcome in folding.outcomes] == [Reason.KEPT_BY_USER]


def test_a_library_that_is_not_called():
    """Functions that nothing calls, and their gradients' names, survive."""

    def graph():
        called(g.placeholder(*IMAGE, name="y"))
        return block(g.placeholder(*IMAGE))

    folding = check(graph)
    assert folding.graph_def.library.function


def test_affines_behind_a_function_that_stays_whole():
    """What the converter fuses whole is not looked into, but the shape behind it is known."""

    def graph():
        x = function(lambda x: tf.nn.max_pool2d(x, 1, 1, "SAME"), IMAGE, _implements="fused")(g.placeholder(*IMAGE))
        return tf.identity(g.conv(g.affine(x), 3, 1), name="out")

    folding = check(graph)
    assert [outcome.status for outcome in folding.outcomes] == [Status.DOWN]
