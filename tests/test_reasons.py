"""Each reason is given by a small graph, which is the one that its line in docs/reasons.md describes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import graphs as g
import pytest
import tensorflow as tf
from checker import build, check_fold

from tf_bnfold.fold import fold_graph
from tf_bnfold.reasons import Reason

raw = tf.raw_ops
PACKAGE = Path(__file__).parents[1] / "tf_bnfold"


def training_mode():
    return g.norm(g.conv(g.image()), training=True)


def statistics_used():
    y, mean, *_ = g.norm_outputs(g.conv(g.image()))
    return y, raw.Mul(x=mean, y=mean, name="other")


def parameters_not_constant():
    return g.norm(g.conv(g.image()), gamma=g.placeholder(4, name="gamma"))


def weights_not_constant():
    return g.norm(g.conv(g.image(), weights=g.placeholder(2, 3, 3, 4, name="weights")))


def weights_compressed():
    return g.norm(g.conv(g.image(), weights=tf.cast(g.const(2, 3, 3, 4, dtype=tf.float16), tf.float32)))


def constant_grows():
    return g.affine(tf.minimum(g.conv(g.image()), 6.0), above_zero=True)


def bad_variance():
    return g.norm(g.conv(g.image()), variance=g.numbers([1.0, -1.0, 1.0, 1.0]))


def not_finite():
    x = g.conv(g.image(), weights=1e20 * tf.ones([2, 3, 3, 4]))
    return raw.Mul(x=x, y=g.numbers([1e20, 1.0, 1.0, 1.0]), name="bn")


def cancellation():
    x = raw.Sub(x=g.rows(), y=g.numbers([101325.0] * 4))
    return g.dense(raw.Mul(x=x, y=g.numbers([1 / 20] * 4), name="bn"))


def subnormal():
    return raw.Mul(x=g.conv(g.image()), y=g.numbers([1e-39, 1.0, 1.0, 1.0]), name="bn")


def channel_axis():
    return g.scale(g.conv(g.image()), axis=1)


def enlarges():
    return raw.Mul(x=g.conv(g.image(), out=1), y=g.const(4), name="bn")


def unknown_shape():
    return raw.AddV2(x=tf.compat.v1.placeholder(tf.float32, name="x"), y=g.const(4), name="bn")


def shared():
    x = g.conv(g.image())
    return g.norm(x), tf.sigmoid(x)


def fetched():
    x = g.conv(g.image())
    return g.norm(x), x


def shared_weights():
    weights = g.const(2, 3, 3, 4)
    other = g.conv(g.image(name="y"), weights=weights, name="other")
    return g.norm(g.conv(g.image(), weights=weights)), tf.sigmoid(other)


def many_copies():
    weights = g.const(3, 3, 64, 64)
    branches = [g.conv(g.image(64, name=name), weights=weights, name=f"conv_{name}") for name in "xyz"]
    return g.norm(tf.concat(branches, axis=-1))


def graph_input():
    return tf.sigmoid(g.norm(g.image()))


def graph_output():
    return g.norm(g.image())


def no_law():
    return g.norm(tf.sigmoid(g.conv(g.image())))


def unknown_attribute():
    built = build(lambda: g.norm(g.conv(g.image())))
    next(node for node in built.graph_def.node if node.op == "Conv2D").attr["novel"].i = 1
    return built


def control_flow():
    x, flag = g.conv(g.image()), g.placeholder(dtype=tf.bool, name="flag")
    return g.norm(raw.Switch(data=x, pred=flag).output_true)


def fake_quant():
    return g.norm(raw.FakeQuantWithMinMaxArgs(inputs=g.conv(g.image())))


def needs_positive_scale():
    pooled = raw.MaxPool(input=g.conv(g.image()), ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="VALID")
    return g.norm(pooled)


def needs_zero_offset():
    return tf.nn.relu(g.offset(tf.nn.relu(g.conv(g.image()))))


def needs_unit_scale():
    return g.conv(raw.AddV2(x=g.norm(g.image()), y=g.image(name="another")))


def zero_padding():
    return g.conv(g.norm(g.image()), padding="SAME")


def uneven_offset():
    return g.affine(g.placeholder(None, 3, 5, 4), above_zero=True) @ g.const(3, 4, 6)


def channels_differ():
    x = g.conv(g.placeholder(2, 5, 6, 3), 1)
    return g.norm(raw.SpaceToDepth(input=x, block_size=2))


def mixed_branches():
    return g.conv(raw.Maximum(x=g.affine(g.image(), above_zero=True), y=g.image(name="another")))


def lone_scalar():
    return raw.Mul(x=tf.nn.relu(g.conv(g.image())), y=g.numbers(0.5), name="half")


def dtype():
    return g.affine(tf.cast(g.conv(g.image()), tf.float16))


def too_far():
    x = g.conv(g.image())
    for _ in range(30):
        x = raw.Neg(x=x)
    return g.norm(x)


def no_reader():
    x = g.image()
    g.norm(x)
    return tf.sigmoid(x)


def input_ranges():
    x = raw.Mul(x=g.rows(3), y=g.numbers([1.0, 0.1, 0.01]), name="bn")
    return raw.MatMul(a=x, b=g.const(3, 4))


def kept_by_user():
    return g.norm(g.conv(g.image()))


def graph_of(reason: Reason) -> Callable[[], object]:
    return globals()[reason.name.lower()]


# These end the way down. A batch norm that can go neither way is listed under what ended the way up, with this as its
# detail.
ONLY_DOWN = {
    Reason.GRAPH_OUTPUT,
    Reason.NEEDS_UNIT_SCALE,
    Reason.ZERO_PADDING,
    Reason.UNEVEN_OFFSET,
    Reason.MIXED_BRANCHES,
    Reason.NO_READER,
}
ONLY_DOWN |= {Reason.CANCELLATION}

# What the user wants in these.
WISHES = {
    Reason.KEPT_BY_USER: {"keep": "bn"},
    Reason.SHARED_WEIGHTS: {"shared_weights": "keep"},
    Reason.INPUT_RANGES: {"quantize": "dynamic"},
}

# TensorFlow itself does not run these, so that there are no numbers to compare.
RUNS_NOWHERE = {Reason.UNKNOWN_ATTRIBUTE, Reason.CONTROL_FLOW}


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.name)
def test_each_reason_is_given_by_its_graph(reason, monkeypatch):
    monkeypatch.setattr("tf_bnfold.fold.up.MOST_STEPS", 50)
    if reason in RUNS_NOWHERE:
        built = build(graph_of(reason))
        outcomes = fold_graph(built.graph_def, built.outputs).outcomes
    else:
        outcomes = check_fold(graph_of(reason), **WISHES.get(reason, {})).outcomes
    refusals = [outcome.refusal for outcome in outcomes if outcome.refusal is not None]
    assert len(refusals) == 1, outcomes
    if reason in ONLY_DOWN:
        assert f"behind it: {reason.name} at " in refusals[0].detail
    else:
        assert refusals[0].reason is reason


def test_each_reason_is_named_by_some_rule():
    """One that no code gives is no reason."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    named = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    assert named == {reason.name for reason in Reason}


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.name)
def test_each_reason_says_what_helps_in_one_short_line(reason):
    for text in (reason.value, reason.graph, reason.remedy):
        assert text
        assert len(text) <= 100
        assert "\n" not in text
        assert not text.endswith(".")
