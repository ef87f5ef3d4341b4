"""Shapes by local rules never contradict TensorFlow's own inference, and know what the fold needs to know."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build
from test_fold_joins import DOWN, MOVES
from test_fold_joins import UP as JOINS
from test_fold_laws import CASES as LAWS
from test_fold_laws import NCHW, POOLS
from test_fold_sinks import CASES as SINKS

from tf_bnfold.graph.shapes import native
from tf_bnfold.graph.view import View

raw = tf.raw_ops


def compare(function, *, complete=False):
    """Hold every tensor's shape and dimensions against TensorFlow's; `complete`: all that it knows is known."""
    built = build(function)
    view = View.of(built.graph_def, built.outputs)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(built.graph_def, name="")
        for operation in graph.get_operations():
            for index, tensor in enumerate(operation.outputs):
                ours = view.graph.tensor(f"{operation.name}:{index}")
                assert_agrees(view, ours, tensor.shape, complete=complete)
                # Asked alone, before its neighbours, a tensor may be seen by another rule.
                assert_agrees(
                    View.of(built.graph_def, built.outputs), ours, tensor.shape, fresh=ours, complete=complete
                )


def assert_agrees(view, tensor, expected, *, fresh=None, complete=False):
    if fresh is not None:
        tensor = view.graph.tensor(f"{fresh.node.name}:{fresh.index}")
    rank = view.shapes.rank(tensor)
    assert rank is None or expected.rank is None or rank == expected.rank, tensor
    for axis in range(expected.rank or 0):
        for asked in (axis, axis - expected.rank):
            size = view.shapes.dim(tensor, asked)
            assert size is None or expected[axis] is None or size == expected[axis], (tensor, asked, size, expected)
    shape = view.shapes.of(tensor)
    assert expected.is_compatible_with(shape), (tensor, shape, expected)
    if complete and tensor.node.op != "Const":
        assert tuple(expected) == shape, tensor


@pytest.mark.parametrize("row", [*JOINS, *MOVES, *DOWN], ids=lambda row: row.number)
def test_graphs_of_the_table(row):
    compare(row.build)


@pytest.mark.parametrize("case", SINKS, ids=lambda case: case.name)
def test_linear_ops(case):
    compare(lambda: g.offset(g.scale(case.sink(case.source()), case.axis_out), case.axis_out), complete=True)


@pytest.mark.parametrize("case", LAWS, ids=lambda case: case.name)
def test_other_ops(case):
    compare(lambda: tf.identity(case.op(g.placeholder(None, 5, 6, 4))))
    compare(lambda: tf.identity(case.op(g.placeholder(2, 5, 6, 4))), complete=True)


@pytest.mark.parametrize("case", [*POOLS, *NCHW], ids=lambda case: case.name)
def test_pools(case):
    compare(lambda: case.op(g.volume() if case in POOLS else g.nchw()), complete=True)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shape", [(2, 4, 5, 1), (2, 1, 5, 4), (2, 4, 1, 1)])
def test_a_bias_of_either_layout(layout, shape):
    """The bias stands on axis 1 or on the last one; its size is no other axis'."""

    def graph():
        x = raw.BiasAdd(value=g.placeholder(*shape), bias=g.const(shape[g.axis_of(layout)]), data_format=layout)
        return raw.Relu(features=x)

    compare(graph, complete=True)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (3, 1, 1), (1, 1, 1, 1, 4), (2, 1, 1, 1)])
def test_constants_that_enlarge(shape):
    """What a constant adds to a shape is seen."""
    for op in (raw.Mul, raw.AddV2, raw.Sub, raw.RealDiv):
        compare(
            lambda op=op: raw.Relu(features=op(x=g.conv(g.placeholder(None, 6, 6, 3), 1, (6, 6)), y=g.const(*shape))),
            complete=True,
        )


def known(function, name="out"):
    built = build(function)
    view = View.of(built.graph_def, built.outputs)
    return view.shapes.of(view.graph.tensor(name))


def test_a_flatten_with_a_dynamic_batch():
    """Reshape(x, [shape(x)[0], 60]), as Keras writes it."""

    def graph():
        x = g.placeholder(None, 4, 5, 3)
        return tf.reshape(x, tf.stack([tf.shape(x)[0], 60]), name="out")

    assert known(graph) == (None, 60)


def test_a_flatten_that_computes_its_size():
    """Reshape(x, [shape(x)[0], prod(shape(x)[1:])])."""

    def graph():
        x = g.placeholder(None, 4, 5, 3)
        size = tf.shape(x)
        return tf.reshape(x, tf.concat([size[:1], [tf.reduce_prod(size[1:])]], 0), name="out")

    assert known(graph) == (None, 60)


def test_a_dense_layer_of_rank_three():
    """The shape arithmetic of tf.tensordot."""
    assert known(lambda: tf.tensordot(g.placeholder(None, 7, 3), g.const(3, 5), 1, name="out")) == (None, 7, 5)


def test_upsampling_by_the_own_size():
    """ResizeNearestNeighbor(x, shape(x)[1:3] * 2)."""

    def graph():
        x = g.image(3, None)
        y = raw.ResizeNearestNeighbor(images=g.conv(x, 4, 1), size=tf.shape(x)[1:3] * 2)
        return tf.identity(y, name="out")

    assert known(graph) == (None, None, None, 4)


def test_a_transposed_convolution_of_a_dynamic_size():
    """Its channels are known, whatever its height and width."""

    def graph():
        x = g.image(3, None)
        size = tf.shape(x)
        sizes = tf.stack([size[0], size[1] * 2, size[2] * 2, 4])
        y = raw.Conv2DBackpropInput(
            input_sizes=sizes, filter=g.const(2, 2, 4, 3), out_backprop=x, strides=[1, 2, 2, 1], padding="SAME"
        )
        return tf.identity(y, name="out")

    assert known(graph) == (None, None, None, 4)


def v1_control_flow(branch, otherwise, step):
    """A condition and a loop of TF1: Switch and Merge, Enter, NextIteration and Exit."""
    v1 = tf.compat.v1
    x = g.placeholder(2, 5, 6, 4)
    flag = raw.Placeholder(dtype=tf.bool, shape=[], name="flag")
    v1.disable_control_flow_v2()
    try:
        y = v1.cond(flag, lambda: branch(x), lambda: otherwise(x))
        z = v1.while_loop(
            lambda i, _: i < 3,
            lambda i, value: (i + 1, step(value, y)),
            (0, y),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape(None)),
        )[1]
    finally:
        v1.enable_control_flow_v2()
    return [tf.identity(y, name="y"), tf.identity(z, name="z")]


@pytest.mark.parametrize(
    ("otherwise", "expected"),
    [
        (lambda x: tf.tanh(x), (2, 5, 6, 4)),
        (lambda x: x[:, 1:], (2, None, 6, 4)),
        (lambda x: tf.reshape(x, [2, 120]), None),
        (lambda x: raw.Lgamma(x=x), (2, 5, 6, 4)),
    ],
)
def test_branches_of_tf1_agree_or_are_unknown(otherwise, expected):
    def graph():
        return v1_control_flow(lambda x: x * 2.0, otherwise, lambda value, y: tf.concat([value, y], 0))

    compare(graph)
    assert known(graph, "y") == expected
    assert known(graph, "z") is None
    built = build(graph)
    view = View.of(built.graph_def, built.outputs)
    assert view.shapes.of(view.graph.tensor("cond/Merge:1")) == ()
    invariant = next(n for n in view.graph.nodes.values() if n.op == "Enter" and n.proto.attr["is_constant"].b)
    assert view.shapes.of(view.graph.tensor(invariant.name)) in (expected, ())


def pooled(x):
    return tf.nn.max_pool2d(x, 2, 2, "VALID"), tf.shape(x)


def test_what_a_call_returns():
    """A call that stays, for instance of what the converter fuses whole, has the shapes that its body gives it."""
    compiled = tf.function(pooled, experimental_attributes={"_implements": "fused"})

    def graph():
        y, size = compiled(g.placeholder(None, 5, 6, 4))
        return [tf.identity(y, name="y"), tf.identity(size, name="size")]

    compare(graph)
    assert (known(graph, "y"), known(graph, "size")) == ((None, 2, 3, 4), (4,))


def test_what_a_call_of_a_call_returns_is_unknown_or_right():
    inner = tf.function(pooled)
    compare(lambda: tf.function(lambda x: tf.tanh(inner(x)[0]))(g.placeholder(None, 5, 6, 4)))


def test_a_call_of_itself_ends():
    def graph():
        built = build(lambda: tf.function(lambda x: tf.add(x, x, name="sum"))(g.placeholder(2, 3)))
        (function,) = built.graph_def.library.function
        again = function.node_def.add(name="again", op="PartitionedCall", input=["x"])
        again.attr["f"].func.name = function.signature.name
        for attr in ("Tin", "Tout"):
            again.attr[attr].list.type.append(1)
        function.ret[function.signature.output_arg[0].name] = "again:output:0"
        return built

    assert known(graph, "PartitionedCall") is None


def test_what_a_broken_body_returns_is_unknown():
    """Each fault alone; TensorFlow and the reader of graphs refuse them by errors of their own."""
    compiled = tf.function(lambda x: tf.tanh(x), experimental_attributes={"_implements": "fused"})

    def damaged(damage):
        built = build(lambda: tf.identity(compiled(g.placeholder(2, 3)), name="y"))
        damage(built.graph_def.library.function[0].node_def)
        return built

    def unknown_op(nodes):
        nodes[0].op = "Nonsense"

    def no_input(nodes):
        nodes[0].input[0] = "nowhere"

    def two_of_a_name(nodes):
        nodes.add().CopyFrom(nodes[0])

    def cycle(nodes):
        nodes[0].input[0] = f"{nodes[0].name}:y:0"

    for damage in (unknown_op, no_input, two_of_a_name, cycle):
        assert known(lambda damage=damage: damaged(damage), "y") is None, damage.__name__


def test_what_branches_and_loops_return():
    def graph():
        x = g.placeholder(None, 5, 6, 4)
        flag = raw.Placeholder(dtype=tf.bool, shape=[], name="flag")
        y = tf.cond(flag, lambda: tf.tanh(x), lambda: x[:, 1:])
        grown = (tf.TensorShape([]), tf.TensorShape([None, None, 6, 4]))
        z = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, tf.concat([v, v], 1)), (0, y), grown)[1]
        return [tf.identity(y, name="y"), tf.identity(z, name="z")]

    compare(graph)
    assert known(graph, "y") == known(graph, "z") == (None, None, 6, 4)


@pytest.mark.parametrize(
    "make", [lambda x: raw.Sin(x=x), lambda x: raw.Lgamma(x=x), lambda x: tf.unique(tf.reshape(x, [-1]))[0]]
)
def test_what_no_rule_names_is_right(make):
    compare(lambda: make(g.placeholder(2, 5, 6, 4)))


ASKED = {
    "GatherNd": lambda x: tf.gather_nd(x, [[0, 1], [1, 0]]),
    "TopKV2": lambda x: raw.TopKV2(input=x, k=2),
    "OneHot": lambda x: tf.one_hot(tf.cast(x, tf.int32), 7),
    "ReverseSequence": lambda x: tf.reverse_sequence(x, [1, 2], seq_axis=1, batch_axis=0),
    "ExtractImagePatches": lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID"),
    "Cumprod": lambda x: tf.math.cumprod(x, 1),
    "Xlogy": lambda x: tf.math.xlogy(x, x),
    "MatrixDiag": lambda x: tf.linalg.diag(x),
    "CropAndResize": lambda x: tf.image.crop_and_resize(x, [[0.0, 0.0, 1.0, 1.0]] * 3, [0, 1, 0], [5, 7]),
    "ScaleAndTranslate": lambda x: tf.image.resize(x, [8, 9], antialias=True),
    "MaxPoolWithArgmax": lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "SAME"),
}


@pytest.mark.parametrize("op", ASKED)
def test_tensorflow_is_asked_where_no_rule_names_an_op(op):
    """Its own functions know what follows from constants, too."""
    compare(lambda: ASKED[op](g.placeholder(2, 4, 6, 3)), complete=True)


def test_tensorflow_is_asked_once_for_equal_ops():
    built = build(lambda: [tf.math.xlogy(x, x) for x in (g.placeholder(2, 5, 3, name=f"x{i}") for i in range(4))])
    native._answer.cache_clear()
    view = View.of(built.graph_def, built.outputs)
    assert {view.shapes.of(view.graph.tensor(name)) for name in built.outputs} == {(2, 5, 3)}
    assert native._answer.cache_info().misses == 1


def test_annotations_are_believed():
    """_output_shapes says what no rule knows."""

    def graph():
        built = build(lambda: raw.Lgamma(x=g.placeholder(2, 3)))
        shape = tf.TensorShape([2, 3]).as_proto()
        built.graph_def.node[-1].attr["_output_shapes"].list.shape.append(shape)
        return built

    assert known(graph, "Lgamma") == (2, 3)


def test_a_graph_deeper_than_the_stack():
    """Twenty thousand ops in a row need no recursion."""

    def graph():
        return g.placeholder(2, 3)

    built = build(graph)
    source = "x"
    for number in range(20_000):
        node = built.graph_def.node.add(name=f"n{number}", op="Tanh")
        node.input.append(source)
        node.attr["T"].type = tf.float32.as_datatype_enum
        source = node.name
    view = View.of(built.graph_def, [source])
    assert view.shapes.of(view.graph.tensor(source)) == (2, 3)
    assert np.prod(view.shapes.of(view.graph.tensor("n7"))) == 6
