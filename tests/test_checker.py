"""The checker catches what it is there to catch: a test that passes whatever a fold does is worse than none."""

from __future__ import annotations

import dataclasses

import checker
import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold, ops_left, run, worst_error
from oracle import to_float64
from tensorflow.core.framework import graph_pb2

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def spoilt(change):
    """A fold_graph that plants a fault into what it gives."""

    def fold(graph_def, *args):
        folding = fold_graph(graph_def, *args)
        spoilt_def = graph_pb2.GraphDef()
        spoilt_def.CopyFrom(folding.graph_def)
        return dataclasses.replace(folding, graph_def=change(spoilt_def, graph_def) or spoilt_def)

    return fold


def first(graph_def, op):
    return next(node for node in graph_def.node if node.op == op)


def constant_of(graph_def, node, port):
    name = node.input[port]
    return next(candidate for candidate in graph_def.node if candidate.name == name)


def change_constant(op, port, change):
    def spoil(folded, _original):
        node = constant_of(folded, first(folded, op), port)
        array = tf.make_ndarray(node.attr["value"].tensor).copy()
        change(array)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))

    return spoil


def one_weight(array):
    array[0, 0, 0, 0] *= 1.001


def one_channel(array):
    array[..., 1] *= 1.001


def one_bias(array):
    array[2] += 1e-3


def not_a_number(array):
    array[2] = np.nan


def rename(folded, _original):
    first(folded, "BiasAdd").name = "other"


def edit_argument(folded, original):
    first(original, "Conv2D").attr["_note"].s = b"edited"


def swap_names(folded, _original):
    """Give the convolution the batch norm's name: the value at a name that survives changes."""
    convolution, added = first(folded, "Conv2D"), first(folded, "BiasAdd")
    convolution.name, added.name = added.name, convolution.name
    added.input[0] = convolution.name


def double_name(folded, _original):
    folded.node.add(name="x", op="NoOp")


def one_more_op(folded, _original):
    added = first(folded, "BiasAdd")
    source = added.input[0]
    for number in range(3):
        node = folded.node.add(name=f"copy{number}", op="Abs")
        node.input.append(source)
        node.attr["T"].type = tf.float32.as_datatype_enum
        source = node.name
    added.input[0] = source


def wrong_padding(folded, _original):
    first(folded, "Conv2D").attr["padding"].s = b"SAME"


def wrong_attribute(folded, _original):
    first(folded, "BiasAdd").attr["data_format"].s = b"NCHW"


@pytest.mark.parametrize(
    "change",
    [
        change_constant("Conv2D", 1, one_weight),
        change_constant("Conv2D", 1, one_channel),
        change_constant("BiasAdd", 1, one_bias),
        change_constant("BiasAdd", 1, not_a_number),
        rename,
        edit_argument,
        swap_names,
        double_name,
        one_more_op,
        wrong_padding,
        wrong_attribute,
    ],
)
def test_the_checker_catches_a_planted_fault(monkeypatch, change):
    """Two of the best-known rewriters compare op names and shapes only, or values with rtol=1: any fold passes."""

    def graph():
        return g.norm(g.conv(g.image()))

    check_fold(graph, expect=["BiasAdd", "Conv2D"])
    monkeypatch.setattr(checker, "fold_graph", spoilt(change))
    with pytest.raises((AssertionError, ValueError, tf.errors.OpError)):
        check_fold(graph)


@pytest.mark.parametrize(
    "wrong", [{"expect": ["Conv2D"]}, {"statuses": [Status.DOWN]}, {"refused": {"bn": Reason.SHARED}}], ids=str
)
def test_the_checker_catches_a_wrong_expectation(wrong):
    """A checker that ignores what it is told to expect passes, too."""
    with pytest.raises(AssertionError):
        check_fold(lambda: g.norm(g.conv(g.image())), **wrong)


def test_the_checker_catches_a_fault_in_a_channel_that_is_small():
    """An error that is measured against the whole tensor hides in a channel of small numbers."""

    def graph(last):
        return lambda: raw.Mul(x=g.image(4), y=g.numbers([1.0, 1e4, 3.0, last]))

    error, where = worst_error(build(graph(1e-4)).graph_def, build(graph(1.01e-4)).graph_def)
    assert where == "Mul:0"
    assert error > 1e-4


def test_the_feeds_are_wide():
    """The checker's own inputs reach what a saturating op does."""
    built = build(lambda: tf.nn.relu6(g.image()))

    def seen(scale):
        feeds = checker.feeds_of(built.graph_def, 0, scale)
        return run(to_float64(built.graph_def), ["Relu6:0"], {k: v.astype(np.float64) for k, v in feeds.items()})[0]

    assert seen(0.1).max() < 6
    assert (seen(30.0) == 6).any()


def test_the_count_of_ops_sees_what_stays():
    """An expectation of ops is of no use when it counts nothing."""
    built = build(lambda: g.norm(tf.nn.relu(g.conv(g.image()))))
    assert ops_left(built.graph_def) == ["Conv2D", "FusedBatchNormV3", "Relu"]
