"""Function calls become the bodies of the functions."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_bnfold.formats.effects import without_idle_waits
from tf_bnfold.formats.inline import inline_calls
from tf_bnfold.formats.prune import pruned


def graph_of(build) -> object:
    with tf.Graph().as_default() as graph:
        build()
        return graph.as_graph_def()


def node(graph_def, name):
    return next(node for node in graph_def.node if node.name == name)


def names(graph_def):
    return [node.name for node in graph_def.node]


def run(graph_def, fetch, feeds):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        return session.run(fetch, feeds)


def call(function, *arguments, name):
    """Call a tf.function so that the call's node has this name."""
    concrete = function.get_concrete_function(*(tf.TensorSpec(value.shape, value.dtype) for value in arguments))
    concrete.add_to_graph()
    outputs = [tensor.dtype for tensor in concrete.outputs]
    return tf.raw_ops.StatefulPartitionedCall(args=list(arguments), Tout=outputs, f=concrete, name=name)


@tf.function
def double(x):
    return tf.add(x, x, name="sum")


@tf.function
def nested(x, y):
    (doubled,) = call(double, x, name="inner")
    return tf.multiply(doubled, y, name="product"), y


def test_nested_calls_become_nodes_named_after_the_call():
    def build():
        x, y = (tf.compat.v1.placeholder(tf.float32, [2], name=name) for name in "xy")
        product, passed = call(nested, x, y, name="call")
        tf.subtract(product, passed, name="out")

    before = graph_of(build)
    copy = type(before).FromString(before.SerializeToString())
    after = inline_calls(before)
    assert before == copy
    assert {"call/inner/sum", "call/inner", "call/product", "call", "out"} <= set(names(after))
    assert not after.library.function
    assert list(node(after, "call/product").input) == ["call/inner/Identity", "y"]
    assert list(node(after, "call/inner/Identity").input) == ["call/inner/sum"]
    assert list(node(after, "out").input) == ["call/Identity", "call/Identity_1"]
    assert node(after, "call").op == "IdentityN"
    assert node(after, "call/inner").op == "Identity"
    feeds = {"x:0": [1.0, 2.0], "y:0": [3.0, 4.0]}
    for fetch in ("out:0", "call:0", "call:1"):
        np.testing.assert_array_equal(run(after, fetch, feeds), run(before, fetch, feeds))
    assert "call" not in names(pruned(after, ["out"]))


def test_names_stay_unique():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        (doubled,) = call(double, x, name="call")
        tf.negative(doubled, name="call/sum")

    after = inline_calls(graph_of(build))
    assert len(set(names(after))) == len(names(after))
    assert node(after, "call/sum").op == "Neg"
    assert list(node(after, "call/Identity").input) == ["call/sum_1"]
    np.testing.assert_array_equal(run(after, "call/sum:0", {"x:0": [1.0, 2.0]}), [-2, -4])


def test_a_call_of_a_call_is_one_node_long():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        for step in range(3):
            (x,) = call(double, x, name=f"call{step}")

    after = inline_calls(graph_of(build))
    assert list(node(after, "call2/sum").input) == ["call1/Identity", "call1/Identity"]


@tf.function(autograph=False)
def checked(x):
    tf.raw_ops.Assert(condition=tf.reduce_all(x > 0), data=[x], name="check")
    return tf.sqrt(x, name="root")


def test_effects_run_and_keep_their_order():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        first = tf.raw_ops.Assert(condition=tf.reduce_all(x < 9), data=[x], name="first")
        with tf.control_dependencies([first]):
            (root,) = call(checked, x, name="call")
        with tf.control_dependencies([root.op]):
            tf.no_op(name="last")
        tf.identity(root, name="out")

    after = inline_calls(graph_of(build))
    assert "^first" in node(after, "call/check").input
    assert "^call/check" in node(after, "call").input
    assert "^call" in node(after, "last").input
    assert list(node(after, "out").input) == ["call"]  # through the call, so that the check runs
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(after, "out:0", {"x:0": [1.0, -1.0]})
    np.testing.assert_array_equal(run(after, "out:0", {"x:0": [1.0, 4.0]}), [1, 2])
    assert without_idle_waits(after) == after


def test_waiting_for_what_has_no_effect_is_dropped():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        with tf.control_dependencies([tf.constant(1.0, name="constant"), tf.exp(x)]):
            done = tf.no_op(name="done")
        with tf.control_dependencies([done]):
            tf.identity(x, name="out")

    before = graph_of(build)
    assert list(node(before, "out").input) == ["x", "^done"]
    assert names(pruned(without_idle_waits(before), ["out"])) == ["x", "out"]


@pytest.mark.parametrize("mark", ["api_implements", "_implements", "_noinline"])
def test_marked_functions_stay_whole(mark):
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        call(nested, x, x, name="call")

    before = graph_of(build)
    inner = next(function for function in before.library.function if "double" in function.signature.name)
    if mark == "_noinline":
        inner.attr[mark].b = True
    else:
        inner.attr[mark].s = b"fused"
    after = inline_calls(before)
    assert node(after, "call/inner").op == "StatefulPartitionedCall"
    assert [function.signature.name for function in after.library.function] == [inner.signature.name]
    np.testing.assert_array_equal(run(after, "call:0", {"x:0": [1.0, 2.0]}), [2, 8])


def test_compiled_functions_are_inlined():
    """jit_compile=True sets _noinline as well, and means only how the body is run; the converter inlines them."""
    compiled = tf.function(lambda x: tf.add(x, x, name="sum"), jit_compile=True)

    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        tf.negative(compiled(x), name="out")

    before = graph_of(build)
    assert all(function.attr["_noinline"].b for function in before.library.function)
    after = inline_calls(before)
    assert [node.op for node in after.node] == ["Placeholder", "AddV2", "Identity", "Identity", "Neg"]
    assert not after.library.function
    np.testing.assert_array_equal(run(after, "out:0", {"x:0": [1.0, 2.0]}), [-2, -4])


def test_functions_of_control_flow_stay_functions():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")

        @tf.function
        def loop(x):
            return tf.while_loop(lambda x: tf.reduce_sum(x) < 9, lambda x: double(x), [x])[0]

        tf.identity(call(loop, x, name="call")[0], name="out")

    before = graph_of(build)
    after = inline_calls(before)
    assert sum("while" in function.signature.name for function in after.library.function) == 2
    assert not any(node.op == "StatefulPartitionedCall" for node in after.node)
    np.testing.assert_array_equal(run(after, "out:0", {"x:0": [1.0, 2.0]}), [4, 8])


def test_graphs_with_control_flow_of_tf1_keep_their_calls():
    """Nodes of a body without inputs would leave the branch, or the frame of the loop."""
    v1 = tf.compat.v1

    def build():
        x = v1.placeholder(tf.float32, [2], name="x")
        v1.disable_control_flow_v2()
        try:
            branch = v1.cond(tf.reduce_sum(x) > 0, lambda: call(double, x, name="call")[0], lambda: x)
        finally:
            v1.enable_control_flow_v2()
        tf.identity(branch, name="out")

    before = graph_of(build)
    assert any(node.op == "Merge" for node in before.node)
    assert inline_calls(before) == before


def test_a_function_that_calls_itself_stays():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        call(nested, x, x, name="call")

    before = graph_of(build)
    recursive = next(function for function in before.library.function if "double" in function.signature.name)
    body = recursive.node_def.add(name="again", op="StatefulPartitionedCall", input=["x"])
    body.attr["Tin"].list.type.append(1)
    body.attr["Tout"].list.type.append(1)
    body.attr["f"].func.name = recursive.signature.name
    after = inline_calls(before)
    assert node(after, "call/inner").op == "StatefulPartitionedCall"


def test_class_follows_the_name():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        call(nested, x, x, name="call")

    before = graph_of(build)
    body = next(function for function in before.library.function if "nested" in function.signature.name)
    product = next(node for node in body.node_def if node.name == "product")
    product.attr["_class"].list.s.extend([b"loc:@product", b"loc:@elsewhere"])
    after = inline_calls(before)
    assert list(node(after, "call/product").attr["_class"].list.s) == [b"loc:@call/product", b"loc:@elsewhere"]


def test_deep_nesting_takes_no_recursion():
    def build():
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        call(double, x, name="call")

    before = graph_of(build)
    depth = sys.getrecursionlimit() + 100
    callee = before.library.function[0].signature.name
    for level in range(depth):
        function = before.library.function.add(ret={"y": "f:output:0"})
        function.signature.name = f"level{level}"
        function.signature.input_arg.add(name="x", type=1)
        function.signature.output_arg.add(name="y", type=1)
        body = function.node_def.add(name="f", op="PartitionedCall", input=["x"])
        body.attr["Tin"].list.type.append(1)
        body.attr["Tout"].list.type.append(1)
        body.attr["f"].func.name = callee
        callee = function.signature.name
    node(before, "call").attr["f"].func.name = callee
    after = inline_calls(before)
    assert not after.library.function
    assert len(after.node) == depth + 4
    np.testing.assert_array_equal(run(after, "call:0", {"x:0": [1.0, 2.0]}), [2, 4])
