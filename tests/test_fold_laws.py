"""Every op that lets an affine pass: it does inside its condition, up and down, and a counterexample stands outside."""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import check_fold

from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


class Passes(enum.Enum):
    """Which affines pass."""

    ANY = "any"
    ORDER = "scale above zero"
    SCALE = "offset zero"
    RECTIFIED = "scale above zero and offset zero"
    NONE = "none"


@dataclasses.dataclass(frozen=True)
class Case:
    """An op on [batch, 5, 6, 4] that keeps the channels on its last axis."""

    name: str
    op: Callable[[tf.Tensor], tf.Tensor]
    passes: Passes
    left: str


def pool(op, padding="VALID", **settings):
    data = "value" if op == "AvgPool" else "input"
    return lambda x: getattr(raw, op)(
        **{data: x}, ksize=[1, 2, 3, 1], strides=[1, 2, 1, 1], padding=padding, **settings
    )


def reduce(op, *axes):
    return lambda x: getattr(raw, op)(input=x, axis=list(axes), keep_dims=True)


def resize(op, align, half):
    return lambda x: getattr(raw, op)(images=x, size=[7, 4], align_corners=align, half_pixel_centers=half)


def gate(x):
    return tf.sigmoid(tf.reduce_mean(tf.abs(g.placeholder(1, 5, 6, 4, name="gate")), [1, 2], keepdims=True))


PADS = [[0, 0], [1, 2], [0, 1], [0, 0]]

# fmt: off
CASES = [
    Case("Identity", lambda x: raw.Identity(input=x), Passes.ANY, ""),
    Case("IdentityN", lambda x: raw.IdentityN(input=[x])[0], Passes.ANY, ""),
    Case("StopGradient", lambda x: raw.StopGradient(input=x), Passes.ANY, "StopGradient"),
    Case("PreventGradient", lambda x: raw.PreventGradient(input=x), Passes.ANY, "PreventGradient"),
    Case("Snapshot", lambda x: raw.Snapshot(input=x), Passes.ANY, "Snapshot"),
    Case("EnsureShape", lambda x: raw.EnsureShape(input=x, shape=[None, 5, None, 4]), Passes.ANY, "EnsureShape"),
    Case("Neg", lambda x: raw.Neg(x=x), Passes.ANY, "Neg"),
    *[Case(f"AvgPool-{p}", pool("AvgPool", p), Passes.ANY, "AvgPool") for p in ("VALID", "SAME")],
    Case("Mean", reduce("Mean", 1, 2), Passes.ANY, "Mean"),
    *[
        Case(f"{op}-{align:d}{half:d}", resize(op, align, half), Passes.ANY, op)
        for op in ("ResizeNearestNeighbor", "ResizeBilinear", "ResizeBicubic")
        for align, half in ((False, False), (True, False), (False, True))
    ],
    Case("Transpose", lambda x: tf.transpose(x, [0, 2, 1, 3]), Passes.ANY, "Transpose"),
    Case("Slice", lambda x: raw.Slice(input=x, begin=[0, 1, 2, 0], size=[-1, 3, -1, -1]), Passes.ANY, "Slice"),
    Case("StridedSlice", lambda x: x[:, ::-2, 1:-1], Passes.ANY, "StridedSlice"),
    Case("GatherV2", lambda x: raw.GatherV2(params=x, indices=[3, 0, 0, 2], axis=1), Passes.ANY, "GatherV2"),
    Case("Tile", lambda x: raw.Tile(input=x, multiples=[1, 2, 3, 1]), Passes.ANY, "Tile"),
    Case("Roll", lambda x: raw.Roll(input=x, shift=[2, -1, 1], axis=[1, -2, 1]), Passes.ANY, "Roll"),
    Case("CheckNumerics", lambda x: raw.CheckNumerics(tensor=x, message="m"), Passes.ANY, "CheckNumerics"),
    Case("ReverseV2", lambda x: raw.ReverseV2(tensor=x, axis=[1, -2]), Passes.ANY, "ReverseV2"),
    *[Case(f"MirrorPad-{m}", lambda x, m=m: raw.MirrorPad(input=x, paddings=PADS, mode=m), Passes.ANY, "MirrorPad") for m in ("REFLECT", "SYMMETRIC")],
    Case("SpaceToBatchND", lambda x: raw.SpaceToBatchND(input=x, block_shape=[1, 2], paddings=[[0, 0], [0, 0]]), Passes.ANY, "SpaceToBatchND"),
    Case("BroadcastTo", lambda x: raw.BroadcastTo(input=x[:, :1], shape=[2, 5, 6, 4]), Passes.ANY, "BroadcastTo StridedSlice"),
    Case("Squeeze", lambda x: tf.squeeze(tf.expand_dims(x, 1), 1), Passes.ANY, "ExpandDims Squeeze"),
    Case("Reshape", lambda x: tf.reshape(tf.reshape(x, [-1, 30, 4]), [-1, 6, 5, 4]), Passes.ANY, "Reshape Reshape"),
    Case("Split", lambda x: raw.Split(axis=1, value=x[:, :4], num_split=2)[1], Passes.ANY, "Split StridedSlice"),
    *[Case(f"MaxPool-{p}", pool("MaxPool", p), Passes.ORDER, "MaxPool") for p in ("VALID", "SAME")],
    Case("MaxPool-EXPLICIT", pool("MaxPool", "EXPLICIT", explicit_paddings=[0, 0, 1, 0, 0, 1, 0, 0]), Passes.ORDER, "MaxPool"),
    Case("Max", reduce("Max", 1, 2), Passes.ORDER, "Max"),
    Case("Min", reduce("Min", -2, -3), Passes.ORDER, "Min"),
    Case("Sum", reduce("Sum", 1, 2), Passes.SCALE, "Sum"),
    Case("Cumsum", lambda x: raw.Cumsum(x=x, axis=1), Passes.SCALE, "Cumsum"),
    Case("Cumsum-exclusive", lambda x: raw.Cumsum(x=x, axis=-2, exclusive=True, reverse=True), Passes.SCALE, "Cumsum"),
    Case("Pad", lambda x: raw.Pad(input=x, paddings=PADS), Passes.SCALE, "Pad"),
    Case("SpaceToBatchND-padded", lambda x: raw.SpaceToBatchND(input=x, block_shape=[2, 2], paddings=[[1, 0], [0, 0]]), Passes.SCALE, "SpaceToBatchND"),
    Case("Relu", lambda x: raw.Relu(features=x), Passes.RECTIFIED, "Relu"),
    *[Case(f"LeakyRelu-{a}", lambda x, a=a: raw.LeakyRelu(features=x, alpha=a), Passes.RECTIFIED, "LeakyRelu") for a in (0.1, 0.0, 3.0, -0.5)],
    Case("Abs", lambda x: raw.Abs(x=x), Passes.RECTIFIED, "Abs"),
    *[
        Case(name, op, Passes.NONE, name)
        for name, op in {
            "Relu6": lambda x: raw.Relu6(features=x),
            "Elu": lambda x: raw.Elu(features=x),
            "Selu": lambda x: raw.Selu(features=x),
            "Sigmoid": lambda x: raw.Sigmoid(x=x),
            "Tanh": lambda x: raw.Tanh(x=x),
            "Softplus": lambda x: raw.Softplus(features=x),
            "Softsign": lambda x: raw.Softsign(features=x),
            "Square": lambda x: raw.Square(x=x),
            "Sign": lambda x: raw.Sign(x=x),
            "Floor": lambda x: raw.Floor(x=x),
            "Rint": lambda x: raw.Rint(x=x),
            "Erf": lambda x: raw.Erf(x=x),
        }.items()
    ],
    Case("Softmax", lambda x: tf.reshape(raw.Softmax(logits=tf.reshape(x, [-1, 4])), [-1, 5, 6, 4]), Passes.NONE, "Reshape Reshape Softmax"),
]
# fmt: on

FORMS = {
    Passes.ANY: lambda x, name="site": g.offset(g.scale(x, name=f"{name}/mul"), name=name),
    Passes.ORDER: lambda x, name="site": g.offset(g.scale(x, above_zero=True, name=f"{name}/mul"), name=name),
    Passes.SCALE: lambda x, name="site": g.scale(x, name=name),
    Passes.RECTIFIED: lambda x, name="site": g.scale(x, above_zero=True, name=name),
}
HAS_OFFSET = {Passes.ANY, Passes.ORDER}

# For each condition: affines that break it and nothing else, and the reason.
OUTSIDE = {
    Passes.ORDER: [(FORMS[Passes.SCALE], Reason.NEEDS_POSITIVE_SCALE)],
    Passes.SCALE: [(g.offset, Reason.NEEDS_ZERO_OFFSET)],
    Passes.RECTIFIED: [(FORMS[Passes.SCALE], Reason.NEEDS_POSITIVE_SCALE), (g.offset, Reason.NEEDS_ZERO_OFFSET)],
    Passes.NONE: [(FORMS[Passes.RECTIFIED], Reason.NO_LAW), (g.offset, Reason.NO_LAW)],
}


def source():
    return g.conv(g.placeholder(2, 6, 8, 3), 4)


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


inside = named([case for case in CASES if case.passes is not Passes.NONE])


@inside
def test_up(case):
    form = FORMS[case.passes]
    left = ["Conv2D", *case.left.split(), *(["BiasAdd"] if case.passes in HAS_OFFSET else [])]
    check_fold(lambda: form(case.op(source())), expect=left, statuses=[Status.UP])


@inside
def test_down(case):
    form = FORMS[case.passes]
    left = ["Conv2D", *case.left.split(), *(["BiasAdd"] if case.passes in HAS_OFFSET else [])]
    check_fold(lambda: g.conv(case.op(form(g.placeholder(2, 5, 6, 4))), 3, 1), expect=left, statuses=[Status.DOWN])


@pytest.mark.parametrize(
    ("case", "form", "reason"),
    [pytest.param(c, f, r, id=f"{c.name}-{r.name}") for c in CASES for f, r in OUTSIDE.get(c.passes, ())],
)
def test_outside(case, form, reason):
    """The fold refuses, up and down, and what it would have given is wrong."""
    site = "offset" if form is g.offset else "site"
    # A known value of a Pad, or a padding that is zero, has its own name.
    fills = case.name in ("Pad", "SpaceToBatchND-padded")
    check_fold(lambda: form(case.op(source())), refused={site: Reason.ZERO_PADDING if fills else reason})
    folding = check_fold(
        lambda: g.conv(case.op(form(g.placeholder(2, 5, 6, 4))), 3, 1), refused={site: Reason.GRAPH_INPUT}
    )
    assert folding.outcomes[0].status is Status.KEPT
    assert counterexample(case.op, form)


def counterexample(op, form) -> bool:
    """Whether op(A(x)) is not A(op(x)) for some wide x."""
    with tf.Graph().as_default():
        x = g.placeholder(2, 5, 6, 4)
        site = form(x).op
        before = op(form(x))
        behind = g.raw.Identity(input=op(x))
        vectors = [tensor for tensor in site.inputs if tensor.op.type != "Placeholder"]
        behind = behind * vectors[0] if site.type == "Mul" else behind + vectors[0]
        with tf.compat.v1.Session() as session:
            values = 30 * np.random.default_rng(0).standard_normal(x.shape)
            a, b = session.run([before, behind], {x: values})
    return np.abs(a - b).max() > 1e-2 * np.abs(b).max()


@named([case for case in CASES if case.passes in (Passes.ORDER, Passes.RECTIFIED)])
@pytest.mark.parametrize("up", [True, False])
def test_a_scale_of_zero_passes(case, up):
    """max(0 x) is 0 max(x)."""

    def form(x):
        return raw.Mul(x=x, y=g.numbers([1.0, 0.0, 2.0, 0.5]), name="site")

    graph = (
        (lambda: form(case.op(source()))) if up else (lambda: g.conv(case.op(form(g.placeholder(2, 5, 6, 4))), 3, 1))
    )
    check_fold(graph, expect=["Conv2D", *case.left.split()], statuses=[Status.UP if up else Status.DOWN])


def halves_of(case):
    """What a batch norm with an offset leaves where only its scale passes."""
    return {"up": ["AddV2", "Conv2D", *case.left.split()]}


@named([case for case in CASES if case.passes in (Passes.SCALE, Passes.RECTIFIED)])
def test_the_scale_goes_alone(case):
    """Where the offset can't pass, the scale does, and one Add stays."""
    above = case.passes is Passes.RECTIFIED
    check_fold(
        lambda: g.affine(case.op(source()), above_zero=above), expect=halves_of(case)["up"], statuses=[Status.PARTLY]
    )


# fmt: off
POOLS = [
    *[Case(f"AvgPool3D-{p}", lambda x, p=p: raw.AvgPool3D(input=x, ksize=[1, 2, 2, 1, 1], strides=[1, 2, 1, 1, 1], padding=p), Passes.ANY, "AvgPool3D") for p in ("VALID", "SAME")],
    *[Case(f"MaxPool3D-{p}", lambda x, p=p: raw.MaxPool3D(input=x, ksize=[1, 2, 2, 1, 1], strides=[1, 2, 1, 1, 1], padding=p), Passes.ORDER, "MaxPool3D") for p in ("VALID", "SAME")],
]
# fmt: on


@named(POOLS)
def test_pools_of_volumes(case):
    form = FORMS[case.passes]
    check_fold(
        lambda: form(case.op(g.conv3d(g.volume()))), expect=["BiasAdd", "Conv3D", case.left], statuses=[Status.UP]
    )
    check_fold(
        lambda: g.conv3d(case.op(form(g.volume()))), expect=["BiasAdd", "Conv3D", case.left], statuses=[Status.DOWN]
    )


# fmt: off
NCHW = [
    Case("AvgPool", lambda x: raw.AvgPool(value=x, ksize=[1, 1, 2, 2], strides=[1, 1, 2, 1], padding="SAME", data_format="NCHW"), Passes.ANY, "AvgPool"),
    Case("MaxPool", lambda x: raw.MaxPool(input=x, ksize=[1, 1, 2, 2], strides=[1, 1, 2, 1], padding="SAME", data_format="NCHW"), Passes.ORDER, "MaxPool"),
    Case("Mean", lambda x: raw.Mean(input=x, axis=[2, 3], keep_dims=True), Passes.ANY, "Mean"),
    Case("Pad", lambda x: raw.Pad(input=x, paddings=[[0, 0], [0, 0], [1, 1], [0, 1]]), Passes.SCALE, "Pad"),
]
# fmt: on


@pytest.mark.parametrize("case", [case for case in POOLS if case.passes is Passes.ORDER], ids=lambda case: case.name)
def test_pools_of_volumes_outside(case):
    """A negative scale does not pass, up or down."""
    check_fold(lambda: g.scale(case.op(g.conv3d(g.volume()))), refused={"scale": Reason.NEEDS_POSITIVE_SCALE})
    check_fold(lambda: g.conv3d(case.op(g.scale(g.volume()))), refused={"scale": Reason.GRAPH_INPUT})


@named(NCHW)
def test_nchw(case):
    """The channel axis is the second one."""
    above, offset = case.passes is Passes.ORDER, case.passes in HAS_OFFSET

    def form(x):
        y = g.scale(x, 1, above_zero=above)
        return g.offset(y, 1) if offset else y

    left = ["Conv2D", case.left, *(["BiasAdd"] if offset else [])]
    check_fold(lambda: form(case.op(g.conv(g.nchw(), layout="NCHW"))), expect=left, statuses=[Status.UP])
    check_fold(lambda: g.conv(case.op(form(g.nchw())), 3, 1, layout="NCHW"), expect=left, statuses=[Status.DOWN])


@pytest.mark.parametrize("value", [0.0, 2.5])
@pytest.mark.parametrize("up", [True, False])
def test_the_value_of_a_pad_follows(up, value):
    """One affine for all channels: the constant that a Pad writes becomes another one (PadV2)."""

    def pad(x):
        return raw.PadV2(input=x, paddings=PADS, constant_values=value) if value else raw.Pad(input=x, paddings=PADS)

    def form(x):
        return raw.AddV2(x=raw.Mul(x=x, y=g.numbers([1.5] * 4)), y=g.numbers([-0.5] * 4))

    graph = (lambda: form(pad(source()))) if up else (lambda: g.conv(pad(form(g.placeholder(2, 5, 6, 4))), 3))
    check_fold(graph, expect=["BiasAdd", "Conv2D", "PadV2"])


def test_the_value_of_a_pad_that_fits_all_channels():
    """x / 127.5 - 1 in each channel, and offset / scale is one number: 127.5 is written."""

    def graph():
        scale = np.array([0.5, -2.0, 1.0, 4.0])
        x = raw.AddV2(x=raw.Mul(x=g.placeholder(2, 5, 6, 4), y=g.numbers(scale)), y=g.numbers(-3 * scale))
        return g.conv(raw.Pad(input=x, paddings=PADS), 3)

    check_fold(graph, expect=["BiasAdd", "Conv2D", "PadV2"], statuses=[Status.DOWN])


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("form", [g.norm, g.affine])
def test_padding_the_channels(channels, form):
    """The channels that are filled carry no affine, also where there was one channel only."""
    pads = [[0, 0], [0, 0], [0, 0], [1, 2]]
    pad = "Pad" if channels > 1 else "PadV2"  # one channel's affine may be everyone's, and the value follows
    check_fold(
        lambda: g.conv(tf.pad(form(g.placeholder(2, 5, 6, channels)), pads), 3), expect=["BiasAdd", "Conv2D", pad]
    )
    check_fold(lambda: form(tf.pad(g.conv(g.image(), channels), pads)))


@pytest.mark.parametrize("both", [[[0, 0], [1, 0], [0, 0], [1, 0]], [[1, 1], [0, 0], [0, 0], [0, 0]]])
def test_padding_other_axes(both):
    """Channels and space at once, or the batch."""
    check_fold(
        lambda: g.conv(tf.pad(g.affine(g.placeholder(2, 5, 6, 4)), both), 3), refused={"bn/add": Reason.GRAPH_INPUT}
    )
    check_fold(lambda: g.affine(tf.pad(source(), both)), refused={"bn/add": Reason.ZERO_PADDING})


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("alike", [True, False])
def test_depth_to_space(layout, alike):
    """Channel j of 4 C feeds channel j mod C: the scales of one output's inputs are alike, or the way is barred."""
    axis = g.axis_of(layout)

    def image(channels):
        return g.placeholder(2, 6, 6, channels) if layout == "NHWC" else g.placeholder(2, channels, 6, 6)

    def form(x):
        few, channels = np.array([1.0, -2.0, 3.0]), x.shape[axis]
        values = np.tile(few, channels // 3) if alike else np.arange(1.0, channels + 1)
        return raw.Mul(x=x, y=g.shaped(g.numbers(values), axis, 4), name="site")

    def to_space(x):
        return raw.DepthToSpace(input=x, block_size=2, data_format=layout)

    def to_depth(x):
        return raw.SpaceToDepth(input=x, block_size=2, data_format=layout)

    def conv(x, out=4):
        return g.conv(x, out, 1, layout=layout)

    refused = {} if alike else {"site": Reason.CHANNELS_DIFFER}
    check_fold(lambda: form(to_depth(conv(image(3), 3))), refused=refused)
    check_fold(lambda: conv(to_space(form(image(12)))), refused={} if alike else {"site": Reason.GRAPH_INPUT})
    check_fold(lambda: g.affine(to_space(conv(image(3), 12)), axis), expect=["BiasAdd", "Conv2D", "DepthToSpace"])
    check_fold(lambda: conv(to_depth(g.affine(image(3), axis))), expect=["BiasAdd", "Conv2D", "SpaceToDepth"])
