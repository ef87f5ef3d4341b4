"""SpaceToBatchND - convolution - BatchToSpaceND is one dilated convolution where it is one; else it stays."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import Built, build, check_fold, ops_left

from tf_bnfold.fold import fold_graph

raw = tf.raw_ops
SHAPES = {"fixed": [2, 9, 8, 4], "free batch": [None, 9, 8, 4], "free": [None, None, None, 4]}
THREE = ["BatchToSpaceND", "Conv2D", "SpaceToBatchND"]


def image(shape):
    return tf.compat.v1.placeholder(tf.float32, SHAPES[shape] if isinstance(shape, str) else shape)


def sequence(length, batch=None):
    return tf.compat.v1.placeholder(tf.float32, [batch, length, 4])


def triple(x, conv, block=(2, 3), pads=((2, 3), (3, 4)), crops=((0, 0), (0, 0))):
    split = raw.SpaceToBatchND(input=x, block_shape=list(block), paddings=[list(p) for p in pads])
    return raw.BatchToSpaceND(input=conv(split), block_shape=list(block), crops=[list(c) for c in crops])


def conv(x, padding="VALID", **settings):
    return raw.Conv2D(input=x, filter=g.const(3, 3, 4, 5), strides=[1] * 4, padding=padding, **settings)


def padding_of(folded, op="Conv2D"):
    node = next(node for node in folded.node if node.op == op)
    return node.attr["padding"].s.decode(), list(node.attr["explicit_paddings"].list.i)


@pytest.mark.parametrize("rates", [(2, 2), (2, 3), (1, 4)])
@pytest.mark.parametrize(
    ("shape", "padding"), [("fixed", "SAME"), ("free batch", "SAME"), ("free", "SAME"), ("free batch", "VALID")]
)
def test_a_convolution_as_tensorflow_writes_it(shape, rates, padding):
    def graph():
        y = tf.nn.convolution(image(shape), g.const(3, 2, 4, 5), padding=padding, dilations=rates)
        return tf.nn.relu(g.norm(tf.nn.bias_add(y, g.const(5))))

    folding = check_fold(graph, expect=["BiasAdd", "Conv2D", "Relu"])
    assert len(folding.dilated) == 1
    assert padding_of(folding.graph_def)[0] == padding


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_depthwise_convolution(shape, multiplier):
    def graph():
        y = tf.nn.depthwise_conv2d(image(shape), g.const(3, 3, 4, multiplier), [1] * 4, "SAME", dilations=[2, 3])
        return g.affine(y)

    check_fold(graph, expect=["BiasAdd", "DepthwiseConv2dNative"])


@pytest.mark.parametrize("length", [21, None])
@pytest.mark.parametrize("rate", [2, 25])
def test_a_causal_sequence(length, rate):
    def graph():
        x = tf.pad(sequence(length), [[0, 0], [2 * rate, 0], [0, 0]])
        return g.affine(tf.nn.convolution(x, g.const(3, 4, 5), padding="VALID", dilations=[rate]))

    check_fold(graph, expect=["BiasAdd", "Conv2D", "ExpandDims", "Pad", "Squeeze"])


def test_two_in_a_row_with_functions_between():
    def graph():
        x = image("free")
        for rate in (2, 4):
            x = tf.nn.relu(g.affine(tf.nn.convolution(x, g.const(3, 3, 4, 4), padding="SAME", dilations=[rate, rate])))
        return x

    check_fold(graph, expect=["BiasAdd", "BiasAdd", "Conv2D", "Conv2D", "Relu", "Relu"])


def test_what_stands_between_is_elementwise():
    def graph():
        return triple(image("fixed"), lambda x: tf.nn.relu(tf.nn.bias_add(g.affine(conv(x)), g.const(5))))

    check_fold(graph, expect=["BiasAdd", "Conv2D", "Relu"])


@pytest.mark.parametrize(
    ("pads", "crops", "padding", "explicit"),
    [
        (((2, 3), (3, 4)), ((0, 0), (0, 0)), "EXPLICIT", [0, 0, 2, 3, 3, 4, 0, 0]),
        (((2, 3), (3, 4)), ((1, 0), (3, 1)), "EXPLICIT", [0, 0, 1, 3, 0, 3, 0, 0]),
        (((2, 3), (3, 4)), ((0, 1), (0, 1)), "SAME", []),
        (((0, 1), (0, 1)), ((0, 1), (0, 1)), "VALID", []),
    ],
)
def test_crops_take_back_paddings(pads, crops, padding, explicit):
    folding = check_fold(lambda: triple(image("fixed"), conv, pads=pads, crops=crops), expect=["Conv2D"])
    assert padding_of(folding.graph_def) == (padding, explicit)


def test_what_the_convolution_pads_itself_counts_once_a_phase():
    check_fold(lambda: triple(image("fixed"), lambda x: conv(x, "SAME")), expect=["Conv2D"])
    explicit = [0, 0, 1, 0, 0, 2, 0, 0]
    check_fold(
        lambda: triple(image("fixed"), lambda x: conv(x, "EXPLICIT", explicit_paddings=explicit)), expect=["Conv2D"]
    )
    check_fold(
        lambda: triple(image([2, 15, 14, 4]), lambda x: conv(x, "SAME", dilations=[1, 2, 2, 1])), expect=["Conv2D"]
    )


def test_an_offset_before_enters_where_nothing_is_padded():
    def graph():
        x = g.affine(image("free batch"))
        return tf.nn.convolution(x, g.const(3, 3, 4, 5), padding="VALID", dilations=[2, 2])

    check_fold(graph, expect=["BiasAdd", "Conv2D"])


STAYS = {
    "more is cropped than padded": lambda: triple(
        image([2, 12, 12, 4]), conv, (2, 2), ((0, 0), (0, 0)), ((1, 0), (0, 0))
    ),
    "a stride": lambda: triple(
        image([2, 12, 12, 4]),
        lambda x: raw.Conv2D(input=x, filter=g.const(1, 1, 4, 5), strides=[1, 2, 2, 1], padding="VALID"),
        (2, 2),
        ((0, 0), (0, 0)),
    ),
    "two convolutions": lambda: triple(image([2, 12, 12, 4]), lambda x: g.conv(g.conv(x)), (2, 2), ((0, 0), (0, 0))),
    "a pool": lambda: triple(
        image("fixed"), lambda x: tf.nn.max_pool2d(conv(x), 2, 1, "SAME"), (2, 3), ((2, 3), (3, 4))
    ),
    "a batch that becomes a spatial axis": lambda: triple(
        image([2, 6, 4]),
        lambda x: raw.Squeeze(input=conv(raw.ExpandDims(input=x, axis=0)), axis=[0]),
        (2,),
        ((2, 2),),
        ((2, 2),),
    ),
    "a channel axis that is padded and cropped": lambda: triple(
        image([2, 6, 6, 4]), lambda x: g.conv(x, 5), (2, 2, 1), ((2, 2), (2, 2), (0, 1)), ((0, 0), (0, 0), (0, 1))
    ),
    "a constant that differs by position": lambda: triple(image("fixed"), lambda x: conv(x) + g.const(5, 3, 5)),
}


@pytest.mark.parametrize("what", STAYS)
def test_what_is_no_dilated_convolution_stays(what):
    folding = check_fold(STAYS[what])
    assert folding.dilated == ()
    assert {"SpaceToBatchND", "BatchToSpaceND"} <= set(ops_left(folding.graph_def))


def test_blocks_of_two_kinds_stay():
    def graph():
        split = raw.SpaceToBatchND(input=image([2, 8, 8, 4]), block_shape=[2, 2], paddings=[[0, 0], [0, 0]])
        return raw.BatchToSpaceND(input=g.conv(split), block_shape=[4, 1], crops=[[0, 0], [0, 0]])

    assert check_fold(graph).dilated == ()


def test_a_shared_or_fetched_value_stays():
    def graph(inner):
        x = raw.SpaceToBatchND(input=image("fixed"), block_shape=[2, 3], paddings=[[2, 3], [3, 4]])
        y = conv(x)
        z = raw.BatchToSpaceND(input=y, block_shape=[2, 3], crops=[[0, 0], [0, 0]])
        return [z, {"split": x, "conv": y}[inner]]

    for inner in ("split", "conv"):
        assert check_fold(lambda inner=inner: graph(inner)).dilated == ()

    def read():
        x = raw.SpaceToBatchND(input=image("fixed"), block_shape=[2, 3], paddings=[[2, 3], [3, 4]])
        return [raw.BatchToSpaceND(input=conv(x), block_shape=[2, 3], crops=[[0, 0], [0, 0]]), raw.Shape(input=x)]

    assert check_fold(read).dilated == ()


@pytest.mark.parametrize("name", ["SpaceToBatchND", "Conv2D", "BatchToSpaceND"])
def test_a_fed_value_stays(name):
    assert check_fold(lambda: triple(image("fixed"), conv), inputs=[name]).dilated == ()


def test_crops_that_only_a_run_tells_stay():
    def graph():
        crop = tf.compat.v1.placeholder(tf.int32, [])
        split = raw.SpaceToBatchND(input=image("free"), block_shape=[2, 2], paddings=[[2, 2], [2, 2]])
        return raw.BatchToSpaceND(input=conv(split), block_shape=[2, 2], crops=tf.stack([[0, crop], [0, 0]]))

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.dilated == ()
    assert folding.graph_def == built.graph_def


def test_the_affine_passes_where_the_three_stay():
    def graph():
        x = triple(image([2, 12, 12, 4]), lambda x: g.conv(g.conv(x)), (2, 2), ((0, 0), (0, 0)))
        return g.affine(x)

    check_fold(graph, expect=sorted([*THREE, "BiasAdd", "Conv2D"]))


def test_shape_arithmetic_goes_with_what_it_steered():
    def graph():
        return tf.nn.convolution(image("free"), g.const(3, 3, 4, 5), padding="SAME", dilations=[2, 2])

    built = build(graph)
    folded = fold_graph(built.graph_def, built.outputs).graph_def
    assert {node.op for node in folded.node} == {"Placeholder", "Const", "Conv2D"}
    assert np.isin(built.outputs, [node.name for node in folded.node]).all()


def test_annotated_shapes_of_what_stood_between_go():
    """They would be those of one phase; TensorFlow does not load a graph that contradicts them."""

    def graph():
        y = tf.nn.convolution(sequence(21), g.const(3, 4, 5), padding="SAME", dilations=[2])
        y = tf.nn.relu(y, name="y")
        return Built(y.graph.as_graph_def(add_shapes=True), ["y"])

    check_fold(graph, expect=["Conv2D", "ExpandDims", "Relu", "Squeeze"])


def test_one_in_another_is_collapsed_too():
    def graph():
        x = raw.SpaceToBatchND(input=image([1, 16, 16, 4]), block_shape=[2, 2], paddings=[[0, 0]] * 2)
        x = triple(x, lambda y: g.conv(y, 5), (2, 2), ((0, 0), (0, 0)))
        return raw.BatchToSpaceND(input=x, block_shape=[2, 2], crops=[[0, 0]] * 2)

    folding = check_fold(graph, expect=["Conv2D"])
    assert len(folding.dilated) == 1
