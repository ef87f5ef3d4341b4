"""An affine along an axis that an op mixes does not pass, though its condition is met; a uniform one does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import graphs as g
import pytest
import tensorflow as tf
from checker import check_fold

from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops
WHY = {Reason.CHANNELS_DIFFER, Reason.CHANNEL_AXIS, Reason.ZERO_PADDING, Reason.MIXED_BRANCHES}


@dataclasses.dataclass(frozen=True)
class Case:
    """An op on [2, 4, 4, 4] that mixes axis 1, the channels of an NCHW convolution.

    Attributes:
      offset: Whether a uniform offset passes, beside a scale above zero.
    """

    name: str
    op: Callable[[tf.Tensor], tf.Tensor]
    offset: bool = True


def pool(op):
    return lambda x: op(
        **{"input" if op is raw.MaxPool else "value": x}, ksize=[1, 2, 2, 1], strides=[1] * 4, padding="SAME"
    )


def strided(op):
    data = "input" if op is raw.MaxPool else "value"
    return lambda x: op(**{data: x}, ksize=[1, 1, 1, 1], strides=[1, 2, 1, 1], padding="VALID")


PADS = [[0, 0], [1, 1], [0, 0], [0, 0]]

CASES = [
    *[Case(f"{op.__name__}", pool(op)) for op in (raw.MaxPool, raw.AvgPool)],
    *[Case(f"{op.__name__}-strided", strided(op)) for op in (raw.MaxPool, raw.AvgPool)],
    *[
        Case(op.__name__, lambda x, op=op: op(images=x, size=[5, 3], align_corners=True))
        for op in (raw.ResizeNearestNeighbor, raw.ResizeBilinear, raw.ResizeBicubic)
    ],
    Case("Cumsum", lambda x: raw.Cumsum(x=x, axis=1), offset=False),
    Case("Cumsum-negative", lambda x: raw.Cumsum(x=x, axis=-3), offset=False),
    *[
        Case(f"MirrorPad-{m}", lambda x, m=m: raw.MirrorPad(input=x, paddings=PADS, mode=m))
        for m in ("REFLECT", "SYMMETRIC")
    ],
    Case("BatchToSpaceND", lambda x: raw.BatchToSpaceND(input=x, block_shape=[2, 1], crops=[[0, 0], [0, 0]])),
    Case("SpaceToBatchND", lambda x: raw.SpaceToBatchND(input=x, block_shape=[2, 1], paddings=[[0, 0], [0, 0]])),
    Case("Transpose", lambda x: tf.transpose(x, [0, 2, 1, 3])),
    *[Case(op, lambda x, op=op: getattr(raw, op)(input=x, axis=[1], keep_dims=True)) for op in ("Mean", "Max", "Min")],
    Case("Sum", lambda x: raw.Sum(input=x, axis=[1], keep_dims=True), offset=False),
    Case("Softmax", lambda x: raw.Softmax(logits=x), offset=False),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def source():
    return g.conv(g.placeholder(2, 3, 4, 4), 4, 1, layout="NCHW")


def per_channel(x):
    return g.scale(x, 1, above_zero=True, name="site")


def sink(x):
    return g.conv(x, 3, 1, layout="NCHW")


def one_channel(x):
    return x.shape[1] == 1


@every
def test_up(case):
    """The scale on the output is another one for each channel that was mixed."""

    def graph():
        y = case.op(source())
        # One channel is left of all of them: what is asked is whether another axis is taken for it.
        return g.scale(y, 2, above_zero=True, name="site") if one_channel(y) else per_channel(y)

    folding = check_fold(graph)
    (outcome,) = folding.outcomes
    assert outcome.status is Status.KEPT
    assert outcome.refusal.reason in WHY | {Reason.NO_LAW}


@every
def test_down(case):
    """The scale on the input is another one for each channel that is mixed."""
    folding = check_fold(lambda: sink(case.op(per_channel(g.placeholder(2, 4, 4, 4)))))
    (outcome,) = folding.outcomes
    assert outcome.status is Status.KEPT
    assert outcome.refusal.reason is Reason.GRAPH_INPUT


def uniform(x, offset):
    y = raw.Mul(x=x, y=g.shaped(g.numbers([1.5] * x.shape[-1]), -1, 4), name="mul")
    return raw.AddV2(x=y, y=g.shaped(g.numbers([-0.5] * x.shape[-1]), -1, 4), name="site") if offset else y


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "Softmax"], ids=lambda case: case.name)
def test_a_uniform_affine_passes(case):
    """One scale, one offset for all: mixing the channels changes nothing."""
    bias = ["BiasAdd"] if case.offset else []
    up = check_fold(lambda: uniform(case.op(source()), case.offset), statuses=[Status.UP])
    down = check_fold(lambda: sink(case.op(uniform(g.placeholder(2, 4, 4, 4), case.offset))), statuses=[Status.DOWN])
    for folding in (up, down):
        assert [node.op for node in folding.graph_def.node if node.op in ("Mul", "AddV2")] == []
        assert [node.op for node in folding.graph_def.node if node.op == "BiasAdd"] == bias


@pytest.mark.parametrize("op", [raw.Maximum, raw.Minimum])
def test_a_negative_scale_turns_the_order(op):
    """The larger of two is the smaller one when both change their sign."""

    def up():
        x = g.image()
        return g.scale(op(x=g.conv(x, name="a"), y=g.conv(x, name="b")))

    def down():
        y = g.scale(g.image(4))
        return g.conv(op(x=y, y=tf.reverse(y, [1])))

    check_fold(up, refused={"scale": Reason.NEEDS_POSITIVE_SCALE})
    check_fold(down, refused={"scale": Reason.GRAPH_INPUT})
