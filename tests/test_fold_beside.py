"""An offset on one input of a sum goes into a bias before another input, and the sum's value stays."""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import graphs as g
import pytest
import tensorflow as tf
from checker import check_fold
from rows import Row, check, parametrized

from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def image(name="x"):
    return g.image(4, name=name)


def conv(x, out=4, name="conv", **options):
    """A convolution with a bias, of the size of what it reads."""
    return g.bias(g.conv(x, out, options.pop("kernel", 3), padding="SAME", name=name, **options), name=f"{name}_bias")


def shifted(x):
    """An offset that can go nowhere up."""
    return g.offset(tf.nn.relu(x))


def out(x):
    """What no offset passes."""
    return tf.nn.relu(x, name="out")


def other(op):
    """A sum of an offset and of what `op` makes of the same image."""

    def graph():
        x = image()
        return out(shifted(x) + op(x))

    return graph


def identity_branch():
    """A block of RepVGG as it is trained: two convolutions and the value itself, a batch norm in each branch."""
    x = tf.nn.relu(g.conv(image(), 4, 1))
    three, one = g.conv(x, 4, 3, padding="SAME", name="three"), g.conv(x, 4, 1, name="one")
    return out(g.affine(three, name="bn3") + g.affine(one, name="bn1") + g.affine(x, name="bn0"))


def reads_itself():
    y = shifted(image())
    return out(y + conv(y))


def two_sums(take):
    x = image()
    y = shifted(x)
    a, b = take(x)
    return [out(y + a), tf.nn.relu6(b - y)]


CONV = "BiasAdd Conv2D"
# fmt: off
TAKEN = [
    Row("identity", lambda: out(conv(x := image()) + g.offset(x)), f"AddV2 {CONV} Relu"),
    Row("sum", other(conv), f"AddV2 {CONV} Relu Relu"),
    Row("output", lambda: shifted(x := image()) + conv(x), f"AddV2 {CONV} Relu"),
    Row("sub-left", lambda: out(raw.Sub(x=conv(x := image()), y=shifted(x))), f"{CONV} Relu Relu Sub"),
    Row("sub-right", lambda: out(raw.Sub(x=shifted(x := image()), y=conv(x))), f"{CONV} Relu Relu Sub"),
    Row("addn", lambda: out(tf.add_n([shifted(x := image()), tf.abs(x), conv(x)])), f"Abs AddN {CONV} Relu Relu"),
    Row("twice", lambda: out(tf.add_n([y := shifted(x := image()), y[:, ::-1], conv(x)])), f"AddN {CONV} Relu Relu StridedSlice"),
    Row("pool", other(lambda x: tf.nn.max_pool2d(conv(x), 3, 1, "SAME")), f"AddV2 {CONV} MaxPool Relu Relu"),
    Row("concat", lambda: out(tf.concat([shifted(x := image()), x], -1) + conv(x, 8)), f"AddV2 {CONV} ConcatV2 Relu Relu"),
    Row("one-position", other(lambda x: conv(tf.reduce_mean(x, [1, 2], keepdims=True))), f"AddV2 {CONV} Mean Relu Relu"),
    Row("one-position-shifted", lambda: out(shifted(tf.reduce_mean(x := image(), [1, 2], keepdims=True)) + conv(x)), f"AddV2 {CONV} Mean Relu Relu"),
    Row("batch-norm-behind-it", other(lambda x: g.norm(g.conv(x, 4, 1))), f"AddV2 {CONV} Relu Relu"),
    Row("two-sums", lambda: two_sums(lambda x: (conv(x, name="a"), conv(x, name="b"))), f"AddV2 {CONV} {CONV} Relu Relu Relu6 Sub"),
    # The scale goes up through the Relu, the offset beside.
    Row("halves", lambda: out(g.affine(tf.nn.relu(g.conv(x := image(), 4, 1)), above_zero=True) + conv(x)), f"AddV2 {CONV} Conv2D Relu Relu"),
]
STAYS = [
    Row("no-bias", other(lambda x: g.conv(x, 4, 1)), "AddV2 AddV2 Conv2D Relu Relu", {"offset": Reason.NEEDS_ZERO_OFFSET}),
    Row("no-linear-op", other(tf.abs), "Abs AddV2 AddV2 Relu Relu", {"offset": Reason.NEEDS_ZERO_OFFSET}),
    Row("shared-bias", lambda: two_sums(lambda x: (c := conv(x), c)), f"AddV2 AddV2 {CONV} Relu Relu Relu6 Sub", {"offset": Reason.NEEDS_ZERO_OFFSET}),
    Row("fetched", lambda: [out(shifted(x := image()) + (c := conv(x))), c], f"AddV2 AddV2 {CONV} Relu Relu", {"offset": Reason.NEEDS_ZERO_OFFSET}),
    Row("reads-itself", reads_itself, f"AddV2 AddV2 {CONV} Relu Relu", {"offset": Reason.NEEDS_ZERO_OFFSET}),
    Row("large", lambda: out(tf.nn.relu(x := image()) + g.numbers([2000.0, 1, 2, 3], name="c") + conv(x)), f"AddV2 AddV2 {CONV} Relu Relu", {"add": Reason.NEEDS_ZERO_OFFSET}),
    # The channels of the sum are not those of the convolution.
    Row("other-axis", lambda: out(tf.nn.relu(x := g.placeholder(2, 4, 5, 6)) + g.const(4, 1, 1) + conv(x, 6)), f"AddV2 AddV2 {CONV} Relu Relu", {"add": Reason.NEEDS_ZERO_OFFSET}),
]
# fmt: on


@parametrized([*TAKEN, *STAYS])
def test_an_offset_beside_a_sum(row):
    check(row)


def test_the_batch_norm_of_an_identity_branch_keeps_its_scale_only():
    """RepVGG: the value is read by two convolutions, so the scale stays; the offset needs no op."""
    folding = check_fold(
        identity_branch,
        expect=["AddV2", "AddV2", "BiasAdd", "BiasAdd", "Conv2D", "Conv2D", "Conv2D", "Mul", "Relu", "Relu"],
        refused={"bn0/add": Reason.SHARED},
    )
    status = {outcome.name: outcome.status for outcome in folding.outcomes}
    assert status == {"bn3/add": Status.UP, "bn1/add": Status.UP, "bn0/add": Status.PARTLY}


@pytest.mark.parametrize("order", ["first", "last"])
def test_an_input_whose_own_batch_norm_stays(order):
    """What stays between the bias and the sum is passed: the bias takes the offset over the scale."""

    def graph():
        x = image()
        kept = g.scale(conv(x), name="kept")
        return out(shifted(x) + kept if order == "first" else kept + shifted(x))

    check_fold(graph, keep="kept", refused={"kept": Reason.KEPT_BY_USER, "offset": Reason.NEEDS_ZERO_OFFSET})


def test_the_report_names_the_op_whose_bias_took_the_offset():
    def graph():
        x = tf.nn.relu(g.image(4))
        return tf.nn.relu(raw.AddV2(x=g.norm(x, name="bn"), y=g.bias(g.conv(x, 4, 1), name="own"), name="sum"))

    (outcome,) = check_fold(graph).outcomes
    assert outcome.status is Status.PARTLY
    assert outcome.sinks == ("own",)
