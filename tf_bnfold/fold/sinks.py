"""The table of sinks: linear ops with constant weights, and how their weights relate to channels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

from tf_bnfold.algebra.channels import IntArray
from tf_bnfold.algebra.linear import Linear
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.shapes import geometry
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal


class Sink(NamedTuple):
    """A linear op that can absorb affines.

    Attributes:
      node: The op.
      data_port: The input that carries values.
      weights_port: The input that carries the weights.
      axis_in: The channel axis of the data.
      axis_out: The channel axis of the output.
      linear: How the weights relate to these channels.
    """

    node: Node
    data_port: int
    weights_port: int
    axis_in: int
    axis_out: int
    linear: Linear

    @property
    def weights(self) -> Tensor:
        """The tensor that the op reads as its weights now."""
        return self.node.inputs[self.weights_port]


def is_sink_op(node: Node) -> bool:
    """Whether the op is linear in one of its inputs."""
    return node.op in _TABLE


def may_pass(taken: object) -> bool:
    """Whether what came of a sink is a refusal with which an affine may still pass it.

    So it may where the op has no constant factor, or where that one leaves the axis of the affine alone.
    """
    return isinstance(taken, Refusal) and taken.reason in (Reason.WEIGHTS_NOT_CONSTANT, Reason.CHANNEL_AXIS)


def sink_of(
    view: View,
    node: Node,
    *,
    behind: bool,
    channels: int | None = None,
    axis: int | None = None,
) -> Sink | Refusal:
    """The sink that a node is, or why it can absorb nothing.

    Args:
      view: The graph.
      node: A node with an op of the table.
      behind: Whether an affine behind the op asks, and not one before it; the other side is looked into no further
        than that needs.
      channels: How many channels that affine has, None for a uniform one.
      axis: Its channel axis, None for a uniform one.
    """
    if (unknown := attributes.unknown(node)) is not None:
        return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, unknown)
    if len(node.inputs) < 2:
        return Refusal(Reason.NO_LAW, node.name, "one operand")
    port = _weights_port(view, node)
    if port is None:
        return _not_constant(node)
    weights = node.inputs[port]
    shape = view.shapes.of(weights)
    if shape is None or None in shape or view.graph.is_fed(node):
        return Refusal(Reason.UNKNOWN_SHAPE, node.name)
    dtype, data = attributes.dtype(node), node.inputs[_data_port(node, port)]
    if attributes.dtype(*weights) != dtype or attributes.dtype(*data) != dtype:
        return Refusal(Reason.DTYPE, node.name)
    if view.constants.smallest_item(weights) < attributes.numpy_dtype(dtype).itemsize:
        return Refusal(Reason.WEIGHTS_COMPRESSED, node.name)
    known = cast("tuple[int, ...]", shape)
    result = _TABLE[node.op](_Query(view, node, port, known, behind, channels, axis))
    return result if result is not None else Refusal(Reason.UNKNOWN_SHAPE, node.name)


class _Query(NamedTuple):
    view: View
    node: Node
    weights_port: int
    shape: tuple[int, ...]  # of the weights
    behind: bool
    channels: int | None
    axis: int | None

    @property
    def channels_in(self) -> int | None:
        return None if self.behind else self.channels

    @property
    def channels_out(self) -> int | None:
        return self.channels if self.behind else None

    @property
    def axis_in(self) -> int | None:
        return None if self.behind else self.axis

    @property
    def axis_out(self) -> int | None:
        return self.axis if self.behind else None

    def attr(self, name: str) -> object:
        return attributes.value(self.node, name)


def _weights_port(view: View, node: Node) -> int | None:
    second = view.constants.is_constant(node.inputs[1])
    if node.op not in _EITHER_OPERAND:
        return 1 if second else None
    first = view.constants.is_constant(node.inputs[0])
    return None if first == second else int(second)


def _data_port(node: Node, weights_port: int) -> int:
    return 2 if node.op in _TRANSPOSED else 1 - weights_port


def _not_constant(node: Node) -> Refusal:
    weights = node.inputs[1].node
    while weights.op in ("Identity", "Reshape", "Transpose", "Cast") and weights.inputs:
        weights = weights.inputs[0].node
    quantised = weights.op.startswith(("FakeQuant", "QuantizeAndDequantize"))
    return Refusal(Reason.FAKE_QUANT if quantised else Reason.WEIGHTS_NOT_CONSTANT, node.name)


@functools.lru_cache(256)
def _along(shape: tuple[int, ...], axis: int, start: int = 0) -> IntArray:
    """0, 1, ... along one axis of the weights, of size 1 along the others; not to be changed."""
    index = np.arange(start, start + shape[axis], dtype=np.intp)
    index.flags.writeable = False
    return index.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _conv(q: _Query) -> Sink | None:
    """Weights [..., C_in / groups, C_out]: an output channel reads the input channels of its group.

    Offset before: where no output position reads padding.
    """
    channel = geometry.channel_axis(q.node, len(q.shape))
    fan_in, outputs = q.shape[-2], q.shape[-1]
    known = fan_in if q.behind else q.channels_in or q.view.shapes.dim(q.node.inputs[0], channel)
    channels = known or fan_in
    groups = channels // fan_in if fan_in and channels % fan_in == 0 else 0
    if groups == 0 or outputs % groups:
        return None
    return Sink(q.node, 0, 1, channel, channel, _grouped(q.shape, groups, uniform_taps=_has_uniform_taps(q, channel)))


@functools.lru_cache(maxsize=256)  # networks repeat their shapes, and small arrays cost by their number
def _grouped(shape: tuple[int, ...], groups: int, *, uniform_taps: bool) -> Linear:
    """The channels of weights [..., C_in / groups, C_out]."""
    rank, (fan_in, outputs) = len(shape), shape[-2:]
    out_channel = _along(shape, rank - 1)
    in_channel = _along(shape, rank - 2) + (out_channel // (outputs // groups)) * fan_in
    return Linear(out_channel, in_channel, outputs, fan_in * groups, uniform_taps)


def _depthwise(q: _Query) -> Sink:
    """Weights [height, width, C, multiplier]: input channel c feeds the output channels c * multiplier + m.

    Offset before: where no output position reads padding.
    """
    channel = geometry.channel_axis(q.node, 4)
    channels, multiplier = q.shape[2:]
    in_channel = _along(q.shape, 2)
    out_channel = in_channel * multiplier + _along(q.shape, 3)
    linear = Linear(out_channel, in_channel, channels * multiplier, channels, _has_uniform_taps(q, channel))
    return Sink(q.node, 0, 1, channel, channel, linear)


def _has_uniform_taps(q: _Query, channel: int) -> bool:
    """Whether no output position reads padding."""
    if q.behind:
        return False  # not asked
    rank = len(q.shape)
    padding = q.attr("padding")
    if padding == "VALID":
        return True
    if padding == "EXPLICIT":
        return all(pads == (0, 0) for pads in geometry.explicit_pads(q.node, rank))
    if padding != "SAME":
        return False
    first = 2 if channel == 1 else 1
    strides, dilations = geometry.per_axis(q.node, "strides", rank), geometry.per_axis(q.node, "dilations", rank)
    for i in range(rank - 2):
        axis = first + i
        size = None if q.shape[i] == 1 else q.view.shapes.dim(q.node.inputs[0], axis)
        if geometry.same_padding(size, q.shape[i], strides[axis], dilations[axis]) != 0:
            return False
    return True


def _conv_transpose(q: _Query) -> Sink | None:
    """Weights [..., C_out / groups, C_in]: an input channel feeds the output channels of its group.

    Offset before: where the kernel is 1, the stride is 1 and nothing is padded.
    """
    rank = len(q.shape)
    channel = geometry.channel_axis(q.node, rank)
    group_out, channels_in = q.shape[-2:]
    channels_out = q.channels_out or q.view.shapes.dim(Tensor(q.node, 0), channel)
    groups = channels_out // group_out if channels_out and group_out and channels_out % group_out == 0 else 0
    if channels_out is None or groups == 0 or channels_in % groups:
        return None
    in_channel = _along(q.shape, rank - 1)
    out_channel = _along(q.shape, rank - 2) + (in_channel // (channels_in // groups)) * group_out
    # A position may see several taps, or none: an offset enters exactly only where there is one tap everywhere.
    one_tap = math.prod(q.shape[:-2]) == 1 and set(geometry.per_axis(q.node, "strides", rank)) == {1}
    uniform = one_tap and (
        q.attr("padding") != "EXPLICIT" or all(p == (0, 0) for p in geometry.explicit_pads(q.node, rank))
    )
    return Sink(q.node, 2, 1, channel, channel, Linear(out_channel, in_channel, channels_out, channels_in, uniform))


def _depthwise_transpose(q: _Query) -> Sink:
    """Weights [height, width, C, multiplier]: input channel c * multiplier + m feeds output channel c.

    Offset before: never.
    """
    channel = geometry.channel_axis(q.node, 4)
    channels, multiplier = q.shape[2:]
    out_channel = _along(q.shape, 2)
    in_channel = out_channel * multiplier + _along(q.shape, 3)
    linear = Linear(out_channel, in_channel, channels, channels * multiplier, uniform_taps=False)
    return Sink(q.node, 2, 1, channel, channel, linear)


def _matmul(q: _Query) -> Sink:
    """Weights [C_in, C_out] behind the data or [C_out, C_in] before it; transposed ones the other way round.

    Offset before: always.
    """
    if q.weights_port == 1:
        rows, columns = (1, 0) if q.attr("transpose_b") else (0, 1)
        linear = Linear(
            _along(q.shape, columns), _along(q.shape, rows), q.shape[columns], q.shape[rows], uniform_taps=True
        )
        return Sink(q.node, 0, 1, 0 if q.attr("transpose_a") else 1, 1, linear)
    rows, columns = (1, 0) if q.attr("transpose_a") else (0, 1)
    linear = Linear(_along(q.shape, rows), _along(q.shape, columns), q.shape[rows], q.shape[columns], uniform_taps=True)
    return Sink(q.node, 1, 0, 1 if q.attr("transpose_b") else 0, 0, linear)


def _batch_matmul(q: _Query) -> Sink | None:
    """Weights [..., C_in, C_out] behind the data or [..., C_out, C_in] before it; each of several matrices takes it.

    Offset before: where the weights are one matrix.
    """
    data_port = 1 - q.weights_port
    data_rank, out_rank = q.view.shapes.rank(q.node.inputs[data_port]), q.view.shapes.rank(Tensor(q.node, 0))
    if data_rank is None or out_rank is None or len(q.shape) < 2:
        return None
    rank = len(q.shape)
    last, before_last = rank - 1, rank - 2
    one_matrix = math.prod(q.shape[:-2]) == 1
    if q.weights_port == 1:
        rows, columns = (last, before_last) if q.attr("adj_y") else (before_last, last)
        linear = Linear(_along(q.shape, columns), _along(q.shape, rows), q.shape[columns], q.shape[rows], one_matrix)
        return Sink(q.node, 0, 1, data_rank - (2 if q.attr("adj_x") else 1), out_rank - 1, linear)
    rows, columns = (last, before_last) if q.attr("adj_x") else (before_last, last)
    linear = Linear(_along(q.shape, rows), _along(q.shape, columns), q.shape[rows], q.shape[columns], one_matrix)
    return Sink(q.node, 1, 0, data_rank - (1 if q.attr("adj_y") else 2), out_rank - 2, linear)


def _einsum(q: _Query) -> Sink | None:
    """C_out is a label that only the weights give to the output, C_in one that both operands have and that is summed.

    Offset before: where that is all that the weights give, and each label of the data is in them or in the output only.
    """
    ranks = [q.view.shapes.rank(tensor) for tensor in q.node.inputs]
    terms = geometry.einsum_terms(str(q.attr("equation")), ranks)
    if terms is None or len(terms) != 3 or any(len(set(term)) < len(term) for term in terms):
        return None
    *operands, right = terms
    weights, data = operands[q.weights_port], operands[1 - q.weights_port]
    given = [label for label in right if label in weights and label not in data]
    summed = [label for label in weights if label in data and label not in right]
    if not given or not summed or len(weights) != len(q.shape) or q.view.shapes.rank(Tensor(q.node, 0)) is None:
        return None
    out_label = right[q.axis_out] if q.axis_out is not None and right[q.axis_out] in given else given[-1]
    in_label = data[q.axis_in] if q.axis_in is not None and data[q.axis_in] in summed else summed[-1]
    out_axis, in_axis = weights.index(out_label), weights.index(in_label)
    linear = Linear(
        _along(q.shape, out_axis),
        _along(q.shape, in_axis),
        q.shape[out_axis],
        q.shape[in_axis],
        # With more labels of its own, the weights would make a matrix of an offset, not a vector.
        # A label that only the data has and that is summed would count an offset once for each of its places.
        uniform_taps=len(given) == 1
        and not any(label in data and label in right for label in weights)
        and all(label in weights or label in right for label in data),
    )
    return Sink(q.node, 1 - q.weights_port, q.weights_port, data.index(in_label), right.index(out_label), linear)


_EITHER_OPERAND = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"})

_TRANSPOSED = frozenset({"Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput"})

_TABLE: dict[str, Callable[[_Query], Sink | None]] = {
    "Conv2D": _conv,
    "Conv3D": _conv,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _conv_transpose,
    "Conv3DBackpropInputV2": _conv_transpose,
    "DepthwiseConv2dNativeBackpropInput": _depthwise_transpose,
    "MatMul": _matmul,
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Einsum": _einsum,
}
