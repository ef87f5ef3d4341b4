"""What is said of one node."""

from __future__ import annotations

import re

import graphs as g
import pytest
import tensorflow as tf
from pages import every_way, network_of

from tf_bnfold.errors import InputError
from tf_bnfold.explain import Network, explain
from tf_bnfold.graph.ops import Op
from tf_bnfold.outcome import Kind, Outcome, Status
from tf_bnfold.report import Result, Size


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(every_way)


def said(name: str, network: Network) -> str:
    (explanation,) = explain([name], network)
    assert all(fact.endswith(".") for fact in explanation.facts)
    return "\n".join(explanation.facts)


def test_one_that_folded_says_into_what_and_past_what(network):
    text = said("up/bn", network)
    assert "A batch norm of 4 channels, FusedBatchNormV3." in text
    assert "Folded up, into up/conv (Conv2D) before it." in text
    assert "On the way it passed up/pool (AvgPool)." in text
    text = said("down/bn", network)
    assert "Folded down, into down/conv (Conv2D) behind it." in text
    assert "The folded graph has no node of this name." in text


def test_one_that_stayed_says_why_on_both_ways_and_what_helps(network):
    text = said("stays/bn", network)
    assert "Not folded." in text
    assert "Before it: the value that would change has another reader" in text
    assert ", SHARED at stays/conv (Conv2D). What would help: let the other reader read the batch norm's output" in text
    assert re.search(r"^Behind it: no batch norm may pass this op.*, NO_LAW at part/Sigmoid", text, re.MULTILINE)
    assert "The folded graph has a node of this name, with the same value." in text


def test_one_that_went_in_part_says_both(network):
    text = said("part/bn/add", network)
    assert "Folded in part: one half went into part/conv (Conv2D), the other stays as one op." in text
    assert "Part of" not in text
    assert said("part/bn/mul", network).startswith("Part of part/bn/add, a batch norm of 4 channels, Mul+AddV2")


def test_a_linear_op_says_what_it_took(network):
    text = said("down/conv", network)
    assert "It took what was folded: down/bn (FusedBatchNormV3)." in text
    assert "The ranges of its 4 channels, largest to median, were " in text
    assert "It reads down/bn (FusedBatchNormV3), down/conv/weights (Const)." in text


def test_an_op_that_stopped_one_says_which(network):
    text = said("stays/conv", network)
    assert "It stopped stays/bn. the value that would change has another reader" in text


def test_an_op_on_the_way_says_what_passed():
    network = network_of(lambda: g.norm(tf.nn.avg_pool2d(g.conv(g.image(), name="conv"), 2, 1, "VALID", name="pool")))
    assert "bn passed it on its way into conv (Conv2D)." in said("pool", network)


def test_what_has_nothing_to_do_with_it_says_so(network):
    assert said("x", network).startswith("No batch norm and no per-channel op by a constant.")
    assert said("down/conv/weights:0", network).startswith(
        "A constant, or computed from constants alone; read by down/conv (Conv2D)."
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [("stays/bm", "stays/bn"), ("SIGMOID", "stays/sigmoid"), ("bn", "down/bn"), ("a/b/sigmoit", "stays/sigmoid")],
)
def test_an_unknown_name_says_near_ones(network, name, near):
    with pytest.raises(
        InputError, match=f"--explain={name}: the graph has no node of that name; did you mean .*{near}"
    ):
        explain([name], network)
    with pytest.raises(InputError, match="the report names those that concern batch norms"):
        explain(["&&&"], network)


def test_a_name_in_functions_is_explained_in_each():
    ops = tuple(Op("bn", "FusedBatchNormV3", function, (), constant=False, survives=False) for function in ("", "f"))
    outcome = Outcome("bn", ("bn",), "FusedBatchNormV3", Kind.BATCH_NORM, 1, Status.UP, ("conv",), function="f")
    main, body = explain(["bn"], Network(Result((outcome,), Size({}, 0), Size({}, 0)), ops))
    assert (main.function, body.function) == ("", "f")
    assert "Nothing was folded into it" in main.facts[0]
    assert body.facts[:2] == ("A batch norm of 1 channel, FusedBatchNormV3.", "Folded up, into conv before it.")


def test_many_names_are_cut():
    sinks = tuple(f"conv{number}" for number in range(9))
    outcome = Outcome("bn", ("bn",), "Mul", Kind.AFFINE, 2, Status.DOWN, sinks)
    network = Network(Result((outcome,), Size({}, 0), Size({}, 0)), (Op("bn", "Mul", "", (), False, False),))
    assert "into conv0, conv1, conv2, conv3, conv4, conv5 and 3 more behind it." in said("bn", network)
