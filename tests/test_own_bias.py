"""The bias of a linear op goes right behind it, over what the TFLite converter does not always see through."""

from __future__ import annotations

import frozen_graphs as f
import graphs as g
import pytest
import tensorflow as tf
from checker import build, check_fold

import tf_bnfold
from tf_bnfold import pipeline
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.fold import fold_graph
from tf_bnfold.options import Options, Request

raw = tf.raw_ops
CONV1D = ["BiasAdd", "Conv2D", "ExpandDims", "Squeeze"]


def sequence(batch=None, length=None):
    return g.placeholder(batch, length, 4)


def conv1d(x, name="conv1d"):
    """Conv1D without its bias, as TensorFlow writes it."""
    image = raw.ExpandDims(input=x, axis=1, name=f"{name}/expand")
    y = raw.Conv2D(input=image, filter=g.const(1, 2, 4, 5), strides=[1] * 4, padding="VALID", name=name)
    return raw.Squeeze(input=y, axis=[1], name=f"{name}/squeeze")


def dense(x, out=5):
    """Dense on a sequence without its bias, as TensorFlow writes it."""
    shape = tf.shape(x)
    rows = raw.Reshape(tensor=x, shape=[-1, x.shape[-1]])
    return raw.Reshape(tensor=g.dense(rows, out), shape=tf.stack([shape[0], shape[1], out]), name="together")


def phases(x):
    """A convolution with a stride between SpaceToBatchND and BatchToSpaceND, which is no dilated one."""
    y = raw.SpaceToBatchND(input=x, block_shape=[2, 2], paddings=[[0, 0], [0, 0]])
    y = raw.Conv2D(input=y, filter=g.const(1, 1, 4, 5), strides=[1, 2, 2, 1], padding="VALID")
    return raw.BatchToSpaceND(input=y, block_shape=[2, 2], crops=[[0, 0], [0, 0]])


FORMS = {
    "conv1d": (lambda: conv1d(sequence()), CONV1D),
    "conv1d of fixed length": (lambda: conv1d(sequence(2, 9)), CONV1D),
    "dense": (
        lambda: dense(sequence()),
        ["BiasAdd", "MatMul", "Pack", "Reshape", "Reshape", "StridedSlice", "StridedSlice"],
    ),
    "phases": (
        lambda: phases(g.placeholder(2, 8, 8, 4)),
        ["BatchToSpaceND", "BiasAdd", "Conv2D", "SpaceToBatchND"],
    ),
}
BIASES = {"BiasAdd": g.bias, "AddV2": lambda x: raw.AddV2(x=g.const(x.shape[-1]), y=x, name="bias")}
BEHIND = {
    "nothing": (lambda x: x, []),
    "relu": (tf.nn.relu, ["Relu"]),
    "batch norm": (g.affine, []),
    "batch norm and relu": (lambda x: tf.nn.relu(g.affine(x)), ["Relu"]),
}


def producer_of_bias(graph_def) -> str:
    """The op that the only BiasAdd reads."""
    ops = {node.name: node.op for node in graph_def.node}
    (bias,) = (node for node in graph_def.node if node.op == "BiasAdd")
    return ops[bias.input[0]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("behind", BEHIND)
def test_it_goes_right_behind_its_linear_op(form, bias, behind):
    (linear, left), (op, more) = FORMS[form], BEHIND[behind]
    folding = check_fold(lambda: op(BIASES[bias](linear())), expect=left + more)
    assert folding.biases == ("bias",)
    assert producer_of_bias(folding.graph_def) in ("Conv2D", "MatMul")
    assert len(folding.outcomes) == ("batch norm" in behind)  # a bias by itself is no site


def test_a_bias_that_is_there_already_stays():
    for graph in (lambda: g.bias(g.conv(g.image(3))), lambda: g.bias(tf.identity(g.conv(g.image(3))))):
        built = build(graph)
        folding = fold_graph(built.graph_def, built.outputs)
        assert folding.biases == ()
        assert folding.graph_def == built.graph_def


def test_an_offset_before_joins_it():
    folding = check_fold(lambda: g.bias(conv1d(g.affine(sequence()))), expect=CONV1D)
    assert producer_of_bias(folding.graph_def) == "Conv2D"


def stays(graph, **settings):
    assert check_fold(graph, **settings).biases == ()


def test_a_value_that_something_else_reads_stays():
    def shared():
        x = conv1d(sequence())
        return [g.bias(x), tf.tanh(x)]

    def fetched():
        x = conv1d(sequence())
        return [g.bias(x), x]

    stays(shared, expect=["BiasAdd", "Conv2D", "ExpandDims", "Squeeze", "Tanh"])
    stays(fetched, expect=CONV1D)


def test_what_the_user_keeps_stays():
    for keep in ("^bias$", "squeeze"):
        stays(lambda: g.bias(conv1d(sequence())), keep=keep, expect=CONV1D)


def test_a_fed_value_stays():
    stays(lambda: g.bias(conv1d(sequence())), inputs=["conv1d/squeeze"])


def test_a_constant_that_differs_by_position_stays():
    stays(lambda: raw.AddV2(x=conv1d(sequence(2, 9)), y=g.const(8, 5)))


def test_two_that_share_a_constant_get_one_each():
    def graph():
        shared = g.const(5)
        return [raw.BiasAdd(value=conv1d(sequence(), name), bias=shared, name=f"{name}/bias") for name in ("a", "b")]

    assert check_fold(graph, expect=2 * CONV1D).biases == ("a/bias", "b/bias")


def test_the_body_of_a_function_counts():
    body = tf.function(lambda x: g.bias(conv1d(x)), input_signature=[tf.TensorSpec([None, None, 4])])
    concrete = body.get_concrete_function()
    built = build(lambda: concrete(sequence()))
    folding = fold_graph(built.graph_def, built.outputs)
    assert [name.rpartition("/")[2] for name in folding.biases] == ["bias"]
    (function,) = folding.graph_def.library.function
    conv, bias = (next(n for n in function.node_def if n.op == op) for op in ("Conv2D", "BiasAdd"))
    assert bias.input[0].startswith(f"{conv.name}:")


def test_the_report_says_which_ones():
    built = build(lambda: g.bias(conv1d(g.bias(conv1d(sequence(), "a"), name="a/bias")[..., :4], "b"), name="b/bias"))
    (note,) = tf_bnfold.fold_graph_def(built.graph_def).report.result.notes
    assert note == "a/bias and 1 more biases: moved right behind the linear op, which TFLite computes them with"


@pytest.mark.parametrize("length", [None, 9])
@pytest.mark.parametrize("form", ["conv1d", "dense"])
def test_the_tflite_has_no_add(form, length, tmp_path):
    linear = {"conv1d": conv1d, "dense": dense}[form]

    def graph():
        raw.Identity(input=tf.nn.relu(g.bias(linear(sequence(None, length)))), name="y")

    target = tmp_path / "out.tflite"
    path = f.saved(tmp_path / "net.pb", f.frozen(graph))
    report = pipeline.run(Request(frozen_graph=path, tflite=str(target), options=Options()))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    assert "ADD" not in op_counts(target.read_bytes())
    assert "bias: moved right behind the linear op, which TFLite computes them with" in report.result.notes


def test_a_bias_that_waits_for_something_stays():
    def waiting():
        other = tf.nn.softplus(g.placeholder(3, name="other"), name="softplus")
        x = conv1d(sequence())
        with tf.control_dependencies([other]):
            return raw.BiasAdd(value=x, bias=tf.identity(g.const(5)), name="bias")

    ops = ["BiasAdd", "Conv2D", "ExpandDims", "Softplus", "Squeeze"]
    assert check_fold(waiting, expect=ops).biases == ()
