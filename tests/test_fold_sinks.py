"""Every linear op takes affines behind it and before it, over strides, dilations, groups, multipliers and layouts."""

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


@dataclasses.dataclass(frozen=True)
class Case:
    """A linear op with constant weights.

    Attributes:
      source: Makes its input.
      sink: Makes the op.
      op: Its type.
      axis_in: The channel axis of its input.
      axis_out: The channel axis of its output.
      uniform: Whether an offset may enter: no output position sees padding, and each sees the same taps.
      bias: The op that holds a bias behind it.
    """

    name: str
    source: Callable[[], tf.Tensor]
    sink: Callable[[tf.Tensor], tf.Tensor]
    op: str
    axis_in: int = -1
    axis_out: int = -1
    uniform: bool = True
    bias: str = "BiasAdd"


def convolutions():
    for groups in (1, 2, 3):
        yield Case(f"conv-groups{groups}", lambda: g.image(6), lambda x, n=groups: g.conv(x, 12, groups=n), "Conv2D")
        yield Case(
            f"conv-groups{groups}-nchw",
            lambda: g.nchw(6),
            lambda x, n=groups: g.conv(x, 12, groups=n, layout="NCHW"),
            "Conv2D",
            1,
            1,
        )
    settings = {
        "valid-stride": ({"stride": (2, 1)}, True),
        "valid-dilation": ({"dilation": (2, 1)}, True),
        "same": ({"padding": "SAME"}, False),
        "same-stride": ({"padding": "SAME", "stride": 2}, False),
        "same-dilation": ({"padding": "SAME", "dilation": (1, 2)}, False),
        "same-1x1": ({"padding": "SAME", "kernel": 1}, True),
        "same-1x1-stride": ({"padding": "SAME", "kernel": 1, "stride": 2}, True),
        "same-1x1-dilation": ({"padding": "SAME", "kernel": 1, "dilation": 2}, True),
        # 5 x 6 and windows of 1 x 3 every 1 x 3: nothing is padded.
        "same-nothing-padded": ({"padding": "SAME", "kernel": (1, 3), "stride": (1, 3)}, True),
        # Windows of 2 every 4, on 5 x 6: the last ones fit.
        "same-stride-above-kernel": ({"padding": "SAME", "kernel": (1, 2), "stride": (1, 4)}, True),
        "same-one-row-padded": ({"padding": "SAME", "kernel": (2, 1), "stride": (3, 1)}, True),
        "same-last-row-padded": ({"padding": "SAME", "kernel": (2, 1), "stride": (2, 1)}, False),
        "explicit": ({"pads": [0, 0, 1, 0, 0, 2, 0, 0]}, False),
        "explicit-stride": ({"pads": [0, 0, 1, 1, 1, 1, 0, 0], "stride": 2}, False),
        "explicit-dilation": ({"pads": [0, 0, 1, 1, 1, 1, 0, 0], "dilation": (2, 1)}, False),
        "explicit-none": ({"pads": [0] * 8}, True),
        "groups-dilation-stride": ({"groups": 3, "dilation": (2, 1), "stride": 1}, True),
        "groups-same": ({"groups": 3, "padding": "SAME"}, False),
    }
    for name, (setting, uniform) in settings.items():
        yield Case(f"conv-{name}", g.image, lambda x, s=setting: g.conv(x, 6, **s), "Conv2D", uniform=uniform)
    nchw = {
        "same": ({"padding": "SAME"}, False),
        "explicit": ({"pads": [0, 0, 0, 0, 1, 0, 0, 2]}, False),
        "explicit-none": ({"pads": [0] * 8}, True),
        "stride-dilation": ({"dilation": (2, 1)}, True),
        "same-nothing-padded": ({"padding": "SAME", "kernel": (1, 3), "stride": (1, 3)}, True),
        "same-last-row-padded": ({"padding": "SAME", "kernel": (2, 1), "stride": (2, 1)}, False),
    }
    for name, (setting, uniform) in nchw.items():
        yield Case(
            f"conv-nchw-{name}", g.nchw, lambda x, s=setting: g.conv(x, 4, layout="NCHW", **s), "Conv2D", 1, 1, uniform
        )
    yield Case("conv-unknown-size-1x1", lambda: g.image(3, None), lambda x: g.conv(x, 4, 1, padding="SAME"), "Conv2D")
    yield Case(
        "conv-unknown-size", lambda: g.image(3, None), lambda x: g.conv(x, 4, padding="SAME"), "Conv2D", uniform=False
    )


def depthwise_convolutions():
    for multiplier in (1, 2, 3):
        yield Case(
            f"depthwise-{multiplier}", g.image, lambda x, m=multiplier: g.depthwise(x, m), "DepthwiseConv2dNative"
        )
        yield Case(
            f"depthwise-{multiplier}-nchw",
            g.nchw,
            lambda x, m=multiplier: g.depthwise(x, m, layout="NCHW"),
            "DepthwiseConv2dNative",
            1,
            1,
        )
    settings = {
        "stride": ({"stride": 2}, True),
        "dilation": ({"dilation": (2, 1)}, True),
        "same": ({"padding": "SAME"}, False),
        "same-stride": ({"padding": "SAME", "stride": 2}, False),
        "same-1x1": ({"padding": "SAME", "kernel": (1, 1)}, True),
        "explicit": ({"pads": [0, 0, 1, 0, 0, 2, 0, 0]}, False),
        "same-dilation": ({"padding": "SAME", "dilation": (1, 2)}, False),
    }
    for name, (setting, uniform) in settings.items():
        yield Case(
            f"depthwise-{name}",
            g.image,
            lambda x, s=setting: g.depthwise(x, 2, **s),
            "DepthwiseConv2dNative",
            uniform=uniform,
        )


def batch(channels=3, layout="NHWC"):
    return g.placeholder(2, 3, 4, channels) if layout == "NHWC" else g.placeholder(2, channels, 3, 4)


def depthwise_transposed(x, multiplier):
    channels = x.shape[-1] // multiplier
    return raw.DepthwiseConv2dNativeBackpropInput(
        input_sizes=[2, 6, 8, channels],
        filter=g.const(3, 2, channels, multiplier),
        out_backprop=x,
        strides=[1, 2, 2, 1],
        padding="SAME",
    )


def transposed3d(x, stride=2, kernel=(2, 2, 1), padding="SAME"):
    weights = g.const(*kernel, 4, x.shape[-1])
    return raw.Conv3DBackpropInputV2(
        input_sizes=[2, *(stride * d for d in x.shape[1:4]), 4],
        filter=weights,
        out_backprop=x,
        strides=[1, stride, stride, stride, 1],
        padding=padding,
    )


def transposed_convolutions():
    op = "Conv2DBackpropInput"
    for groups in (1, 2, 3):
        for stride in (1, 2):
            yield Case(
                f"transposed-{groups}-{stride}",
                lambda: batch(6),
                lambda x, n=groups, s=stride: g.transposed(x, 2 * n, stride=s, groups=n),
                op,
                uniform=False,
            )
    yield Case("transposed-same", batch, lambda x: g.transposed(x, stride=2, padding="SAME"), op, uniform=False)
    yield Case(
        "transposed-nchw",
        lambda: batch(4, "NCHW"),
        lambda x: g.transposed(x, 6, stride=2, groups=2, layout="NCHW"),
        op,
        1,
        1,
        uniform=False,
    )
    yield Case("transposed-1x1", batch, lambda x: g.transposed(x, 4, (1, 1)), op)
    yield Case("transposed-1x1-groups", lambda: batch(6), lambda x: g.transposed(x, 4, (1, 1), groups=2), op)
    yield Case("transposed-1x1-stride", batch, lambda x: g.transposed(x, 4, (1, 1), stride=2), op, uniform=False)
    for multiplier in (1, 2):
        yield Case(
            f"depthwise-transposed-{multiplier}",
            lambda m=multiplier: batch(3 * m),
            lambda x, m=multiplier: depthwise_transposed(x, m),
            "DepthwiseConv2dNativeBackpropInput",
            uniform=False,
        )
    yield Case(
        "transposed3d", lambda: g.placeholder(2, 2, 2, 3, 3), transposed3d, "Conv3DBackpropInputV2", uniform=False
    )
    yield Case(
        "transposed3d-1x1",
        lambda: g.placeholder(2, 2, 2, 3, 3),
        lambda x: transposed3d(x, 1, (1, 1, 1)),
        "Conv3DBackpropInputV2",
    )


def volumes():
    for name, setting, uniform in (
        ("valid", {}, True),
        ("stride", {"stride": 2}, True),
        ("same", {"padding": "SAME"}, False),
        ("same-stride", {"padding": "SAME", "stride": 2}, False),
    ):
        yield Case(f"conv3d-{name}", g.volume, lambda x, s=setting: g.conv3d(x, **s), "Conv3D", uniform=uniform)
    yield Case(
        "conv3d-ncdhw",
        lambda: g.volume(layout="NCDHW"),
        lambda x: g.conv3d(x, layout="NCDHW"),
        "Conv3D",
        1,
        1,
        bias="AddV2",
    )


def matmul(x, *, a=False, b=False, left=False):
    """MatMul by constant weights [3 -> 5], with both flags, the constant on either side."""
    if left:
        return raw.MatMul(a=g.const(*((3, 5) if a else (5, 3))), b=x, transpose_a=a, transpose_b=b)
    return raw.MatMul(a=x, b=g.const(*((5, 3) if b else (3, 5))), transpose_a=a, transpose_b=b)


def batch_matmul(op, x, weights, *, a=False, b=False, left=False):
    shape = weights[:-2] + (weights[:-3:-1] if (a if left else b) else weights[-2:])
    extra = {"Tout": tf.float32} if op == "BatchMatMulV3" else {}
    y = g.const(*shape)
    return (
        getattr(raw, op)(x=y, y=x, adj_x=a, adj_y=b, **extra)
        if left
        else getattr(raw, op)(x=x, y=y, adj_x=a, adj_y=b, **extra)
    )


def matrices():
    for a in (False, True):
        for b in (False, True):
            yield Case(
                f"matmul-{a:d}{b:d}",
                lambda a=a: g.placeholder(3, 4) if a else g.placeholder(4, 3),
                lambda x, a=a, b=b: matmul(x, a=a, b=b),
                "MatMul",
                0 if a else 1,
                1,
            )
            yield Case(
                f"matmul-left-{a:d}{b:d}",
                lambda b=b: g.placeholder(4, 3) if b else g.placeholder(3, 4),
                lambda x, a=a, b=b: matmul(x, a=a, b=b, left=True),
                "MatMul",
                1 if b else 0,
                0,
                bias="AddV2",
            )
            for op in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
                one = (3, 5) if op != "BatchMatMul" else (2, 3, 5)
                yield Case(
                    f"{op}-{a:d}{b:d}",
                    lambda a=a: g.placeholder(2, 3, 4) if a else g.placeholder(2, 4, 3),
                    lambda x, a=a, b=b, op=op, w=one: batch_matmul(op, x, w, a=a, b=b),
                    op,
                    1 if a else 2,
                    2,
                    # Several matrices would make several biases of one offset.
                    uniform=len(one) == 2,
                )
            yield Case(
                f"BatchMatMulV2-left-{a:d}{b:d}",
                lambda b=b: g.placeholder(2, 4, 3) if b else g.placeholder(2, 3, 4),
                lambda x, a=a, b=b: batch_matmul("BatchMatMulV2", x, (5, 3), a=a, b=b, left=True),
                "BatchMatMulV2",
                2 if b else 1,
                1,
                bias="AddV2",
            )
    yield Case(
        "BatchMatMulV2-one",
        lambda: g.placeholder(None, 4, 3),
        lambda x: batch_matmul("BatchMatMulV2", x, (1, 3, 5)),
        "BatchMatMulV2",
    )
    yield Case(
        "BatchMatMulV2-more-axes",
        lambda: g.placeholder(4, 3),
        lambda x: batch_matmul("BatchMatMulV2", x, (2, 3, 5)),
        "BatchMatMulV2",
        uniform=False,
    )


def einsums():
    def case(equation, data, weights, axis_in, axis_out, *, uniform=True, bias="AddV2", turned=False):
        def sink(x):
            inputs = [g.const(*weights), x] if turned else [x, g.const(*weights)]
            return raw.Einsum(inputs=inputs, equation=equation)

        return Case(
            f"einsum-{equation}", lambda: g.placeholder(*data), sink, "Einsum", axis_in, axis_out, uniform, bias
        )

    yield case("abc,cd->abd", (None, 4, 3), (3, 5), 2, 2, bias="BiasAdd")
    yield case("abc,dc->abd", (None, 4, 3), (5, 3), 2, 2, bias="BiasAdd")
    yield case("cd,abc->abd", (None, 4, 3), (3, 5), 2, 2, bias="BiasAdd", turned=True)
    yield case("abc,cd->adb", (2, 4, 3), (3, 5), 2, 1)
    yield case("abc,bd->adc", (2, 4, 3), (4, 5), 1, 1)
    yield case("abc,bcd->ad", (2, 4, 3), (4, 3, 5), 2, 1, bias="BiasAdd")
    yield case("abc,bcd->ad", (2, 4, 3), (4, 3, 5), 1, 1, bias="BiasAdd")
    # Several labels of the weights' own: a matrix would come of an offset.
    yield case("abc,cde->abde", (2, 4, 3), (3, 5, 2), 2, 3, uniform=False, bias="BiasAdd")
    yield case("abc,cde->abde", (2, 4, 3), (3, 5, 2), 2, 2, uniform=False, bias="BiasAdd")
    # A label that the data alone gives and that is summed: the offset counts several times.
    yield case("abc,cd->ad", (2, 4, 3), (3, 5), 2, 1, uniform=False, bias="BiasAdd")
    # A label of the weights alone that is summed.
    yield case("ab,bcd->ac", (2, 3), (3, 5, 2), 1, 1, bias="BiasAdd")
    # A batch label in both.
    yield case("abc,acd->abd", (2, 4, 3), (2, 3, 5), 2, 2, uniform=False, bias="BiasAdd")


CASES = [
    *convolutions(),
    *depthwise_convolutions(),
    *transposed_convolutions(),
    *volumes(),
    *matrices(),
    *einsums(),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def left(case, *ops):
    return sorted([case.op, *ops])


@every
def test_a_batch_norm_behind(case):
    """Scale and offset, both signs, with zero among the scales."""

    def graph():
        y = case.sink(case.source())
        scale = tf.concat([g.signed(y.shape[case.axis_out] - 1), [0.0]], 0)
        return g.offset(raw.Mul(x=y, y=g.shaped(scale, case.axis_out, y.shape.rank)), case.axis_out)

    bias = case.bias
    if case.name.startswith("einsum-abc,cde->abde") and case.axis_out == 2:
        bias = "AddV2"
    check_fold(graph, expect=left(case, bias), statuses=[Status.UP])


@every
def test_a_scale_before(case):
    """A scale passes any padding."""
    check_fold(lambda: case.sink(g.scale(case.source(), case.axis_in)), expect=left(case), statuses=[Status.DOWN])


@every
def test_a_batch_norm_before(case):
    """An offset enters where each output position sees the same taps; else one Add stays."""
    check_fold(
        lambda: case.sink(g.affine(case.source(), case.axis_in)),
        expect=left(case, case.bias if case.uniform else "AddV2"),
        statuses=[Status.DOWN if case.uniform else Status.PARTLY],
    )


@every
def test_several_affines_in_one_sink(case):
    """Two before and two behind, interleaved with a bias."""

    def graph():
        x = g.scale(g.scale(case.source(), case.axis_in), case.axis_in)
        y = g.affine(case.sink(tf.identity(x)), case.axis_out)
        return g.affine(tf.identity(y, name="between"), case.axis_out)

    bias = case.bias
    if case.name.startswith("einsum-abc,cde->abde") and case.axis_out == 2:
        bias = "AddV2"
    check_fold(graph, expect=left(case, bias))


@pytest.mark.parametrize("case", [case for case in CASES if case.uniform], ids=lambda case: case.name)
def test_batch_norm_sink_batch_norm(case):
    """What comes before makes a bias that what comes behind scales."""
    check_fold(
        lambda: g.affine(case.sink(g.affine(case.source(), case.axis_in)), case.axis_out),
        expect=left(case, case.bias),
        statuses=[Status.DOWN, Status.UP],
    )


@every
def test_weights_that_are_computed(case):
    """The same op with weights that are no constant takes nothing."""

    def graph():
        y = case.sink(case.source())
        return g.scale(y, case.axis_out)

    folding = check_fold(graph, expect=left(case))
    assert folding.outcomes[0].sinks

    def computed():
        built = tf.compat.v1.get_default_graph()
        y = case.sink(case.source())
        op = y.op
        port = next(i for i, tensor in enumerate(op.inputs) if tensor.op.type == "Const" and tensor.dtype.is_floating)
        with built.as_default():
            weights = tf.tanh(g.placeholder(*op.inputs[port].shape, name="w"))
        op._update_input(port, weights)
        return g.scale(y, case.axis_out, name="site")

    check_fold(computed, refused={"site": Reason.WEIGHTS_NOT_CONSTANT})
