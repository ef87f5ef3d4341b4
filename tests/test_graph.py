"""The working graph: edges, edits and the way back; what is none of the fold's business survives."""

from __future__ import annotations

import graphs as g
import pytest
import tensorflow as tf
from checker import build, check_fold
from tensorflow.core.framework import graph_pb2

from tf_bnfold.errors import InputError
from tf_bnfold.fold import fold_graph
from tf_bnfold.graph.export import to_graph_def
from tf_bnfold.graph.graph import Graph
from tf_bnfold.graph.view import View

raw = tf.raw_ops


def nodes_of(graph_def):
    return {node.name: node for node in graph_def.node}


def conv_block():
    return tf.nn.relu(g.norm(g.bias(g.conv(g.image()))), name="out")


def changed(change, function=conv_block):
    """The graph with its NodeDefs changed."""

    def graph():
        built = build(function)
        change(nodes_of(built.graph_def), built.graph_def)
        return built

    return graph


# Reading


def test_a_graph_comes_back_as_it_is():
    """Without an edit the way there and back is the identity, byte by byte."""
    built = build(conv_block)
    built.graph_def.node[0].device = "/cpu:0"
    built.graph_def.versions.min_consumer = 7
    again = to_graph_def(Graph(built.graph_def, built.outputs))
    assert again.SerializeToString(deterministic=True) == built.graph_def.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["nothing", "nothing:0", "conv/nothing"])
def test_an_output_that_does_not_exist(name):
    built = build(conv_block)
    with pytest.raises(InputError, match=f"output '{name}'"):
        fold_graph(built.graph_def, [name])
    with pytest.raises(InputError, match=f"input '{name}'"):
        fold_graph(built.graph_def, built.outputs, [name])


def test_a_name_that_is_given_twice():
    built = build(conv_block)
    built.graph_def.node.add().CopyFrom(built.graph_def.node[0])
    with pytest.raises(InputError, match="two nodes of that name"):
        fold_graph(built.graph_def, built.outputs)


@pytest.mark.parametrize("name", ["gone", "^gone", "gone:1"])
def test_an_input_that_does_not_exist(name):
    built = build(conv_block)
    built.graph_def.node[-1].input.append(name)
    with pytest.raises(InputError, match="is not in the graph"):
        fold_graph(built.graph_def, built.outputs)


def test_a_cycle():
    built = build(conv_block)
    nodes_of(built.graph_def)["conv"].input[0] = "out"
    with pytest.raises(InputError, match="cycle"):
        fold_graph(built.graph_def, built.outputs)


@pytest.mark.parametrize("name", ["out", "out:0"])
def test_outputs_by_node_or_tensor_name(name):
    built = build(conv_block)
    folding = fold_graph(built.graph_def, [name])
    assert "FusedBatchNormV3" not in {node.op for node in folding.graph_def.node}


def test_a_fetched_tensor_beyond_the_first():
    """Output 1 of a Split holds the whole Split."""

    def graph():
        a, b = tf.split(g.conv(g.image()), 2, 3, name="parts")
        return [g.affine(a), b]

    built = build(graph)
    assert "parts:1" in built.outputs
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def


# Names


def test_the_batch_norms_name_goes_to_what_has_its_value():
    folding = check_fold(lambda: g.norm(g.conv(g.image()), name="bn"), expect=["BiasAdd", "Conv2D"])
    nodes = nodes_of(folding.graph_def)
    assert nodes["bn"].op == "BiasAdd"
    assert "conv" not in nodes
    assert nodes["conv/folded"].op == "Conv2D"


def test_a_name_that_is_taken():
    def graph():
        x = g.image()
        tf.identity(x, name="conv/folded")
        return [g.norm(g.conv(x), name="bn"), tf.identity(x, name="conv/folded_1"), tf.tanh(x, name="conv/bias")]

    folding = check_fold(graph, expect=["BiasAdd", "Conv2D", "Tanh"])
    assert nodes_of(folding.graph_def)["conv/bias"].op == "Tanh"


def test_a_fetched_batch_norm_below_a_value_that_is_fetched_too():
    """Where no node can take the name, an Identity keeps it: both outputs stay."""

    def graph():
        x = g.norm(g.image(), name="bn")
        return g.conv(x, name="conv"), tf.identity(g.conv(x, name="b"), name="out")

    check_fold(graph, expect=["BiasAdd", "BiasAdd", "Conv2D", "Conv2D"])


@pytest.mark.parametrize("form", [lambda x: x * 1.0, lambda x: x * g.numbers([1.0] * 3)])
def test_an_identity_that_is_fetched(form):
    """x * 1 goes, but its name is an output: an Identity has it."""
    folding = check_fold(lambda: raw.Identity(input=form(g.image()), name="out"))
    assert nodes_of(folding.graph_def)["out"].op == "Identity"
    check_fold(lambda: [tf.tanh(y := form(g.image())), y])


# What is none of the fold's business


def test_devices_survive():
    def change(nodes, _graph_def):
        for name in ("conv", "bn", "out", "conv/weights"):
            nodes[name].device = "/device:CPU:0"

    nodes = nodes_of(check_fold(changed(change), expect=["BiasAdd", "Conv2D", "Relu"]).graph_def)
    assert nodes["out"].device == "/device:CPU:0"
    assert nodes["conv/folded"].device == "/device:CPU:0"


def test_colocation_follows():
    """`_class` names a node: one that is gone or has another name is followed."""

    def change(nodes, _graph_def):
        for name, groups in {"out": ["bn", "x"], "bias": ["conv"], "conv": ["conv"], "bn": ["bn"]}.items():
            nodes[name].attr["_class"].list.s.extend([f"loc:@{group}".encode() for group in groups])

    folding = check_fold(changed(change), expect=["BiasAdd", "Conv2D", "Relu"])
    nodes = nodes_of(folding.graph_def)
    groups = {
        name: [s.decode() for s in node.attr["_class"].list.s] for name, node in nodes.items() if "_class" in node.attr
    }
    named = {group.removeprefix("loc:@") for members in groups.values() for group in members}
    assert named <= set(nodes)
    assert "loc:@x" in groups["out"]


def test_node_order_survives():
    """What is left stands in the order in which it stood."""
    built = build(conv_block)
    before = [node.name for node in built.graph_def.node]
    behind = [node.name for node in fold_graph(built.graph_def, built.outputs).graph_def.node]
    kept = [name for name in behind if name in before]
    assert kept == [name for name in before if name in kept]


def test_the_library_and_versions_survive():
    def graph():
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 4])])
        def double(x):
            return 2 * x

        return tf.identity(double.get_concrete_function()(g.norm(g.conv(g.image()))), name="out")

    built = build(graph)
    built.graph_def.versions.bad_consumers.append(3)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def.library == built.graph_def.library
    assert folding.graph_def.versions == built.graph_def.versions
    assert "FusedBatchNormV3" not in {node.op for node in folding.graph_def.node}


def test_debug_info_and_unknown_ops_survive():
    """A custom op that TensorFlow does not know stands in the graph, apart from the fold."""

    def change(nodes, graph_def):
        node = graph_def.node.add(name="custom", op="AnOpOfTheFuture")
        node.input.extend(["out", "^x"])
        node.attr["setting"].i = 3

    built = changed(change)()
    folding = fold_graph(built.graph_def, ["custom"])
    nodes = nodes_of(folding.graph_def)
    assert nodes["custom"] == nodes_of(built.graph_def)["custom"]
    assert "FusedBatchNormV3" not in {node.op for node in folding.graph_def.node}


def test_an_unknown_op_in_between_is_a_refusal():
    def change(nodes, graph_def):
        node = graph_def.node.add(name="custom", op="AnOpOfTheFuture")
        node.input.append("bias")
        nodes["bn"].input[0] = "custom"

    built = changed(change)()
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert folding.outcomes[0].refusal.node == "custom"


# Edges


def test_control_edges_on_what_is_gone():
    """What waited for the batch norm, or for the convolution, waits for what stands there now."""

    def change(nodes, graph_def):
        for number, target in enumerate(("bn", "conv", "bias", "bn/gamma", "conv/weights")):
            graph_def.node.add(name=f"after{number}", op="NoOp").input.append(f"^{target}")
        graph_def.node.add(name="before", op="NoOp")
        nodes["bn"].input.append("^before")

    built = changed(change)()
    folding = fold_graph(built.graph_def, [*built.outputs, *(f"after{n}" for n in range(5))])
    nodes = nodes_of(folding.graph_def)
    assert "FusedBatchNormV3" not in {node.op for node in folding.graph_def.node}
    for number in range(5):
        (edge,) = nodes[f"after{number}"].input
        assert edge[1:] in nodes
    assert any("^before" in node.input for node in folding.graph_def.node)
    with tf.Graph().as_default():
        tf.import_graph_def(folding.graph_def, name="")


def test_a_value_that_a_node_reads_twice():
    check_fold(lambda: (y := g.norm(g.conv(g.image()))) * y, expect=["BiasAdd", "Conv2D", "Mul"])


def test_the_same_bytes_each_time():
    built = build(
        lambda: [conv_block(), g.affine(tf.concat([g.conv(g.image(name="y")), g.conv(g.image(name="z"))], 1))]
    )
    first = fold_graph(built.graph_def, built.outputs).graph_def.SerializeToString(deterministic=True)
    second = fold_graph(built.graph_def, built.outputs).graph_def.SerializeToString(deterministic=True)
    assert first == second


def test_an_empty_graph():
    folding = fold_graph(graph_pb2.GraphDef(), [])
    assert (folding.graph_def, folding.outcomes) == (graph_pb2.GraphDef(), ())


def test_constants_are_decoded_when_they_are_asked_for():
    """A graph whose batch norms are all refused never looks at the weights."""
    built = build(lambda: g.norm(g.conv(g.image()), training=True))
    view = View.of(built.graph_def, built.outputs)
    assert view.constants.is_constant(view.graph.tensor("conv/weights"))
    assert view.constants.decoded == 0
