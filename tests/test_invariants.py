"""Constants that loops, branches and calls get as arguments: the fold inside uses those that are proved to be constant.

What is not proved stays whole: another constant at another call, a loop that changes the argument, a value that is fed.
"""

from __future__ import annotations

import checker
import graphs as g
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from checker import feeds_of, run

from tf_bnfold import pipeline
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.prune import pruned
from tf_bnfold.graph.invariants import known_arguments
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops
IMAGE = [2, 4, 4, 4]


class Block:
    """A convolution and a batch norm whose constants are outside of what calls it."""

    def __init__(self) -> None:
        self.weights = g.const(1, 1, 4, 4, name="weights")
        self.parameters = {
            "gamma": g.signed(4),
            "beta": g.const(4),
            "mean": g.const(4),
            "variance": g.positive(4),
        }

    def __call__(self, x):
        return tf.nn.relu(
            g.norm(g.conv(x, weights=self.weights, name="inner/conv"), name="inner/bn", **self.parameters)
        )


def x():
    return g.placeholder(*IMAGE)


def out(*values):
    return [tf.identity(value, name=f"out{place}") for place, value in enumerate(values)]


def looped():
    block = Block()
    return out(tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, block(v)), (0, x()))[1])


def looped_with_a_bound():
    """A bound is one more argument, which nothing but the condition reads."""
    block = Block()
    loop = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, block(v)), (0, x()), maximum_iterations=5)
    return out(loop[1])


def looped_in_the_midst():
    """The arguments that go stand before others that stay, so that outputs of the loop move."""
    block = Block()
    offset = g.placeholder(4, name="y")
    loop = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, block(v) + offset), (0, x()))
    return out(tf.tanh(loop[1]))


def twice_looped():
    block = Block()

    def turn(i, v):
        return i + 1, tf.while_loop(lambda j, _: j < 2, lambda j, w: (j + 1, block(w)), (0, v))[1]

    return out(tf.while_loop(lambda i, _: i < 3, turn, (0, x()))[1])


def chosen():
    block = Block()
    value = x()
    return out(tf.cond(g.placeholder(dtype=tf.bool, name="flag"), lambda: block(value), lambda: value))


def chosen_of_three():
    block = Block()
    value = x()
    branch = tf.cast(g.placeholder(dtype=tf.bool, name="flag"), tf.int32)
    return out(tf.switch_case(branch, [lambda: block(value), lambda: value, lambda: -value]))


def called():
    block = Block()
    body = tf.function(lambda v: block(v), input_signature=[tf.TensorSpec(IMAGE)])
    return out(body.get_concrete_function()(x()))


def function_of_weights(**attributes):
    """A function of an image and of weights, with a batch norm of its own."""

    def body(v, weights):
        return tf.nn.relu(g.norm(g.conv(v, weights=weights, name="inner/conv"), name="inner/bn"))

    signature = [tf.TensorSpec(IMAGE), tf.TensorSpec([1, 1, 4, 4])]
    wrapped = tf.function(body, input_signature=signature, experimental_attributes=attributes or None)
    return wrapped.get_concrete_function()


def called_twice_alike():
    weights, body = g.const(1, 1, 4, 4, name="weights"), function_of_weights()
    return out(body(x(), weights), body(g.placeholder(*IMAGE, name="y"), tf.identity(weights)))


def called_twice_with_equal_constants():
    body = function_of_weights()
    values = np.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    return out(body(x(), g.numbers(values)), body(g.placeholder(*IMAGE, name="y"), g.numbers(values)))


FOLDED = [
    *(looped, looped_with_a_bound, looped_in_the_midst, twice_looped, chosen, chosen_of_three, called),
    *(called_twice_alike, called_twice_with_equal_constants),
]


SOLE = [each for each in FOLDED if each not in (called_twice_alike, called_twice_with_equal_constants)]


def called_twice_differently():
    body = function_of_weights()
    return out(body(x(), g.const(1, 1, 4, 4)), body(g.placeholder(*IMAGE, name="y"), g.const(1, 1, 4, 4)))


def called_with_what_is_computed():
    return out(function_of_weights()(x(), tf.tanh(g.placeholder(1, 1, 4, 4, name="y"))))


def called_once_with_an_input():
    body = function_of_weights()
    return out(body(x(), g.const(1, 1, 4, 4)), body(g.placeholder(*IMAGE, name="y"), g.placeholder(1, 1, 4, 4)))


def changed_by_the_loop():
    def turn(i, v, weights):
        return i + 1, tf.nn.relu(g.norm(g.conv(v, weights=weights), name="inner/bn")), tf.tanh(weights)

    return out(tf.while_loop(lambda i, *_: i < 3, turn, (0, x(), g.const(1, 1, 4, 4)))[1])


def swapped_by_the_loop():
    """Both are constants, and each turn finds the other one."""

    def turn(i, v, one, other):
        return i + 1, tf.nn.relu(g.norm(g.conv(v, weights=one), name="inner/bn")), other, one

    constants = (g.const(1, 1, 4, 4), g.const(1, 1, 4, 4))
    return out(tf.while_loop(lambda i, *_: i < 3, turn, (0, x(), *constants))[1])


NOT_PROVED = [
    *(called_twice_differently, called_with_what_is_computed, called_once_with_an_input),
    *(changed_by_the_loop, swapped_by_the_loop),
]


def build(graph):
    """Build a graph without what no output needs, as it comes from a SavedModel: unread outputs of a loop are gone."""
    built = checker.build(graph)
    return checker.Built(pruned(built.graph_def, built.outputs), built.outputs)


def feeds(graph_def, flag):
    given = feeds_of(graph_def, 0, 1.0)
    return {name: np.array(flag, bool) if value.dtype == bool else value for name, value in given.items()}


def folded(graph, inputs=()):
    """Fold, and hold the outputs and a second fold against the first."""
    built = build(graph)
    names = [name if ":" in name else f"{name}:0" for name in built.outputs]
    before = built.graph_def.SerializeToString(deterministic=True)
    folding = fold_graph(built.graph_def, built.outputs, inputs)
    assert built.graph_def.SerializeToString(deterministic=True) == before
    for flag in (0, 1):
        given = feeds(built.graph_def, flag)
        for a, b in zip(run(built.graph_def, names, given), run(folding.graph_def, names, given), strict=True):
            assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
    again = fold_graph(folding.graph_def, built.outputs, inputs)
    assert again.graph_def.SerializeToString(deterministic=True) == folding.graph_def.SerializeToString(
        deterministic=True
    )
    return built.graph_def, folding


def norms(graph_def):
    nodes = [*graph_def.node, *(node for f in graph_def.library.function for node in f.node_def)]
    return [node.name for node in nodes if node.op == "FusedBatchNormV3"]


@pytest.mark.parametrize("graph", FOLDED)
def test_a_constant_argument_is_folded_with(graph):
    before, folding = folded(graph)
    assert norms(before)
    assert not norms(folding.graph_def)
    assert {outcome.status for outcome in folding.outcomes} == {Status.UP}
    if graph in SOLE:
        assert folding.copied == ()
        assert constants(folding.graph_def) == constants(before)
    assert folding.graph_def.ByteSize() < before.ByteSize()


@pytest.mark.parametrize("graph", NOT_PROVED)
def test_what_is_not_proved_is_left_alone(graph):
    before, folding = folded(graph)
    assert folding.graph_def == before
    assert {outcome.refusal.reason for outcome in folding.outcomes} == {Reason.WEIGHTS_NOT_CONSTANT}


def constants(graph_def):
    nodes = [*graph_def.node, *(node for f in graph_def.library.function for node in f.node_def)]
    return sum(node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 4 for node in nodes)


def arguments(graph_def):
    return {f.signature.name: len(f.signature.input_arg) for f in graph_def.library.function}


@pytest.mark.parametrize("graph", [looped, twice_looped, chosen, called])
def test_arguments_that_nothing_reads_any_more_go(graph):
    """The old weights would stay in the file as long as they are passed."""
    before, folding = folded(graph)
    assert constants(folding.graph_def) == constants(before) == 1
    old, new = arguments(before), arguments(folding.graph_def)
    assert all(new[name] == number - 5 for name, number in old.items())


def read_in_both_branches():
    block, value = Block(), x()
    other = lambda: g.conv(value, weights=block.weights, name="other/conv")  # noqa: E731
    return out(tf.cond(g.placeholder(dtype=tf.bool, name="flag"), lambda: block(value), other))


def read_beside_the_loop():
    block = Block()
    loop = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, block(v)), (0, x()))
    return out(g.conv(loop[1], weights=block.weights, name="other/conv"))


def read_in_the_outer_loop():
    block = Block()

    def turn(i, v):
        inner = tf.while_loop(lambda j, _: j < 2, lambda j, w: (j + 1, block(w)), (0, v))[1]
        return i + 1, tf.tanh(g.conv(inner, weights=block.weights, name="other/conv"))

    return out(tf.while_loop(lambda i, _: i < 3, turn, (0, x()))[1])


@pytest.mark.parametrize("graph", [read_in_both_branches, read_beside_the_loop, read_in_the_outer_loop])
def test_weights_that_are_read_outside_of_a_body_are_shared(graph):
    """They are copied, and the bytes are told; or kept, and the batch norm stays."""
    before, folding = folded(graph)
    assert not norms(folding.graph_def)
    assert constants(folding.graph_def) == constants(before) + 1
    assert [(each.copies, each.bytes_added) for each in folding.copied] == [(1, 64)]
    built = build(graph)
    kept = fold_graph(built.graph_def, built.outputs, shared_weights="keep")
    assert kept.copied == ()
    assert constants(kept.graph_def) == constants(before)
    assert [outcome.refusal.reason for outcome in kept.outcomes] == [Reason.SHARED_WEIGHTS]
    assert "is read outside of this graph" in kept.outcomes[0].refusal.detail


@pytest.mark.parametrize("graph", SOLE)
def test_weights_that_only_a_body_reads_are_not_shared(graph):
    built = build(graph)
    kept = fold_graph(built.graph_def, built.outputs, shared_weights="keep")
    assert {outcome.status for outcome in kept.outcomes} == {Status.UP}


def test_an_argument_that_is_still_read_stays():
    def graph():
        block = Block()
        body = lambda i, v: (i + 1, block(v) + tf.reduce_sum(block.weights))  # noqa: E731
        return out(tf.while_loop(lambda i, _: i < 3, body, (0, x()))[1])

    before, folding = folded(graph)
    assert not norms(folding.graph_def)
    assert constants(folding.graph_def) == 2
    old, new = arguments(before), arguments(folding.graph_def)
    assert all(new[name] == number - 4 for name, number in old.items())


def test_an_output_of_a_loop_that_is_read_keeps_its_argument():
    def graph():
        weights = g.const(1, 1, 4, 4, name="weights")

        def turn(i, v, w):
            return i + 1, tf.nn.relu(g.norm(g.conv(v, weights=w), name="inner/bn")), w

        loop = tf.while_loop(lambda i, *_: i < 3, turn, (0, x(), weights))
        return out(loop[1], tf.reduce_sum(loop[2]))

    before, folding = folded(graph)
    assert not norms(folding.graph_def)
    assert arguments(folding.graph_def) == arguments(before)


def test_a_loop_that_is_an_output_keeps_its_outputs():
    def graph():
        block = Block()
        value = tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, block(v)), (0, x()))[1]
        return value.op.inputs[0]

    before, folding = folded(graph)
    assert not norms(folding.graph_def)
    assert arguments(folding.graph_def) == arguments(before)


def test_readers_follow_a_loop_whose_outputs_move():
    before, folding = folded(looped_in_the_midst)
    (old,), (new,) = ([n for n in graph.node if "While" in n.op] for graph in (before, folding.graph_def))
    assert new.name == f"{old.name}/folded"
    assert len(new.input) == len(old.input) - 5
    assert len(new.attr["T"].list.type) == len(new.attr["output_shapes"].list.shape) == len(new.input)


def test_a_constant_that_is_fed_is_no_constant():
    def graph():
        return out(function_of_weights()(x(), g.const(1, 1, 4, 4, name="weights")))

    built = build(graph)
    assert known_arguments(built.graph_def)
    folding = fold_graph(built.graph_def, built.outputs, ["weights:0"])
    assert [outcome.refusal.reason for outcome in folding.outcomes] == [Reason.WEIGHTS_NOT_CONSTANT]
    assert folding.graph_def == built.graph_def


@pytest.mark.parametrize("mark", ["_implements", "api_implements", "forward_function_name", "backward_function_name"])
def test_a_function_that_is_bound_to_another_is_left_alone(mark):
    built = build(lambda: out(function_of_weights()(x(), g.const(1, 1, 4, 4))))
    built.graph_def.library.function[0].attr[mark].s = b"other"
    assert fold_graph(built.graph_def, built.outputs).graph_def == built.graph_def


def test_a_function_with_a_gradient_or_another_caller_is_left_alone():
    built = build(lambda: out(function_of_weights()(x(), g.const(1, 1, 4, 4))))
    name = built.graph_def.library.function[0].signature.name
    assert known_arguments(built.graph_def).keys() == {name}
    with_gradient, with_another = (type(built.graph_def).FromString(built.graph_def.SerializeToString()) for _ in "12")
    with_gradient.library.gradient.add(function_name=name, gradient_func="other")
    with_another.node.add(name="map", op="MapDataset").attr["f"].func.name = name
    assert known_arguments(with_gradient) == known_arguments(with_another) == {}


def test_a_function_that_calls_itself_is_left_alone():
    built = build(lambda: out(function_of_weights()(x(), g.const(1, 1, 4, 4))))
    function = built.graph_def.library.function[0]
    call = function.node_def.add(
        name="again", op="PartitionedCall", input=[a.name for a in function.signature.input_arg]
    )
    call.attr["f"].func.name = function.signature.name
    assert known_arguments(built.graph_def) == {}


class InABranch(tf.Module):
    """Keras layers in a branch and in a loop: their variables come in as arguments."""

    def __init__(self, layers):
        self.conv, self.norm = layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization()
        for layer in (self.conv, self.norm):
            layer.build((1, 8, 8, 3))
        saved_models.randomise(self)

    @property
    def weights(self):
        return [*self.conv.weights, *self.norm.weights]

    def block(self, image):
        return tf.nn.relu(self.norm(self.conv(image), training=False))

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), name="image"), tf.TensorSpec((), tf.bool, name="flag")])
    def branch(self, image, flag):
        return {"y": tf.cond(flag, lambda: self.block(image), lambda: self.conv(image))}

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), name="image")])
    def loop(self, image):
        return {"y": tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, self.block(v)), [0, image])[1]}


@pytest.mark.parametrize("name", ["branch", "loop"])
@pytest.mark.parametrize("keras", ["keras", "tf_keras"])
def test_keras_layers_in_a_branch_or_a_loop(tmp_path, keras, name):
    layers = pytest.importorskip(keras).layers
    module = InABranch(layers)
    path, file = str(tmp_path / "model"), tmp_path / "out.tflite"
    tf.saved_model.save(module, path, signatures=getattr(module, name))
    unfolded = pipeline.run(Request(path, tflite=str(file), options=Options(keep="."))).result
    assert unfolded.unfolded()
    report = pipeline.run(Request(path, tflite=str(file), options=Options()))
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert all(measurement.verified for measurement in report.run.measurements)
    assert not {"MUL", "RSQRT", "SUB"} & report.result.tflite.ops.keys()
    assert report.result.tflite.total <= unfolded.tflite.total
    assert report.result.tflite.bytes <= unfolded.tflite.bytes + 64  # a longer name or two
    assert report.result.after.bytes < unfolded.after.bytes


class Cell:
    """An RNN cell with a batch norm behind its input's Dense, made of the layers of either Keras."""

    @staticmethod
    def of(keras):
        layers = keras.layers

        class NormCell(layers.Layer):
            def __init__(self):
                super().__init__()
                self.state_size = 4
                self.dense, self.norm, self.recurrent = layers.Dense(4), layers.BatchNormalization(), layers.Dense(4)

            def build(self, shape):
                self.dense.build(shape)
                self.norm.build((shape[0], 4))
                self.recurrent.build((shape[0], 4))
                self.built = True

            def call(self, inputs, states, training=False):
                state = tf.nn.tanh(self.norm(self.dense(inputs), training=False) + self.recurrent(states[0]))
                return state, [state]

        return NormCell()


def test_a_batch_norm_in_a_cell_of_a_keras_rnn(tmp_path):
    import keras

    inputs = keras.layers.Input((6, 3), batch_size=1, name="frames")
    model = keras.Model(inputs, keras.layers.RNN(Cell.of(keras), return_sequences=True)(inputs))
    saved_models.randomise(model)
    path = str(tmp_path / "model")
    model.export(path, verbose=False, input_signature=[tf.TensorSpec((1, 6, 3), name="frames")])
    report = pipeline.run(Request(path, tflite=str(tmp_path / "out.tflite"), options=Options()))
    (outcome,) = report.result.of_kind(Kind.BATCH_NORM)
    assert (outcome.status, bool(outcome.function)) == (Status.UP, True)
    assert all(measurement.verified for measurement in report.run.measurements)
    assert report.result.tflite.ops["FULLY_CONNECTED"] == 2
