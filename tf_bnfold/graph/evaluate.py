"""The ops that are read as arithmetic on constants, in numpy; a TypeError or ValueError says that one is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node

Array = npt.NDArray[Any]
Result = Array | Sequence[Array]  # several arrays of an op with several outputs


def _squeeze(node: Node, x: Array) -> Array:
    axes = tuple(attributes.value(node, "squeeze_dims") or ())
    return x.squeeze(axes) if axes else x.squeeze()


def _cast(node: Node, x: Array) -> Array:
    return x.astype(attributes.numpy_dtype(attributes.value(node, "DstT")))


def _real_div(x: Array, y: Array) -> Array:
    return np.divide(_floats(x), y)  # integer division has its own rounding


def _floats(x: Array) -> Array:
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(x.dtype)
    return x


def _split_v(x: Array, sizes: Array, axis: Array) -> Sequence[Array]:
    rest = x.shape[int(axis)] - int(sizes[sizes >= 0].sum())
    ends = np.cumsum(np.where(sizes < 0, rest, sizes)).astype(int)
    return np.split(x, ends[:-1], int(axis))


def _unpack(node: Node, x: Array) -> Sequence[Array]:
    return list(np.moveaxis(x, attributes.value(node, "axis"), 0))


def _slice(x: Array, begin: Array, size: Array) -> Array:
    starts, sizes = begin.astype(int), size.astype(int)
    return x[tuple(slice(b, None if s < 0 else b + s) for b, s in zip(starts, sizes, strict=True))]


def _strided_slice(node: Node, x: Array, begin: Array, end: Array, strides: Array) -> Array:
    masks = {name: attributes.value(node, f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis")}
    shrink = attributes.value(node, "shrink_axis_mask")

    def item(place: int) -> Any:
        bit = 1 << place
        if masks["ellipsis"] & bit:
            return Ellipsis
        if masks["new_axis"] & bit:
            return None
        if shrink & bit:
            return int(begin[place])
        first, last = (None if masks[n] & bit else int(v[place]) for n, v in (("begin", begin), ("end", end)))
        return slice(first, last, int(strides[place]))

    return np.asarray(x[tuple(item(place) for place in range(begin.size))])


def _gather(node: Node, x: Array, indices: Array, axis: Array | int = 0) -> Array:
    if node.op == "GatherV2" and attributes.value(node, "batch_dims"):
        raise TypeError("batch_dims")
    if (indices < 0).any():
        raise ValueError("no index of TensorFlow")
    return x.take(indices.astype(int), int(axis))


def _pad(x: Array, paddings: Array, fill: Array | float = 0.0) -> Array:
    return np.pad(x, paddings.astype(int), constant_values=fill)


def _reduce(function: Callable[..., Array]) -> Callable[..., Array]:
    def rule(node: Node, x: Array, axes: Array) -> Array:
        return np.asarray(
            function(_floats(x), tuple(axes.astype(int).ravel()), keepdims=attributes.value(node, "keep_dims"))
        )

    return rule


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _matmul(node: Node, x: Array, y: Array) -> Array:
    x = x.T if attributes.value(node, "transpose_a") else x
    y = y.T if attributes.value(node, "transpose_b") else y
    return np.asarray(_floats(x) @ y)


def _batch_matmul(node: Node, x: Array, y: Array) -> Array:
    x = np.swapaxes(x, -1, -2) if attributes.value(node, "adj_x") else x
    y = np.swapaxes(y, -1, -2) if attributes.value(node, "adj_y") else y
    return np.asarray(_floats(x) @ y)


def _einsum(node: Node, *inputs: Array) -> Array:
    return np.asarray(np.einsum(attributes.value(node, "equation"), *map(_floats, inputs)))


def _select(condition: Array, x: Array, y: Array) -> Array:
    if condition.shape not in ((), x.shape):  # of Select, a vector decides for whole rows
        raise ValueError(condition.shape)
    return np.where(condition, x, y)


def _cumsum(node: Node, x: Array, axis: Array) -> Array:
    place, is_exclusive = int(axis), attributes.value(node, "exclusive")
    turned = np.flip(x, place) if attributes.value(node, "reverse") else x
    total = np.cumsum(turned, place, dtype=x.dtype) - (turned if is_exclusive else 0)
    return np.flip(total, place) if attributes.value(node, "reverse") else total


def _band(x: Array, lower: Array, upper: Array) -> Array:
    rows, columns = np.ogrid[: x.shape[-2], : x.shape[-1]]
    below, above = int(lower), int(upper)
    inside = ((below < 0) | (rows - columns <= below)) & ((above < 0) | (columns - rows <= above))
    return np.where(inside, x, np.zeros((), x.dtype))


_PLAIN: dict[str, Callable[..., Result]] = {
    "Identity": lambda x: x,
    "ReadVariableOp": lambda x: x,
    "StopGradient": lambda x: x,
    "PreventGradient": lambda x: x,
    "Snapshot": lambda x: x,
    "Reshape": lambda x, shape: x.reshape(shape.astype(int)),
    "ExpandDims": lambda x, axis: np.expand_dims(x, int(axis)),
    "Transpose": lambda x, order: x.transpose(order.astype(int)),
    "Concat": lambda axis, *inputs: np.concatenate(inputs, axis=int(axis)),
    "ConcatV2": lambda *inputs: np.concatenate(inputs[:-1], axis=int(inputs[-1])),
    "SplitV": _split_v,
    "Slice": _slice,
    "Tile": lambda x, multiples: np.tile(x, multiples.astype(int)),
    "Pad": _pad,
    "PadV2": _pad,
    "Fill": lambda shape, x: np.full(shape.astype(int), x),
    "BroadcastTo": lambda x, shape: np.broadcast_to(x, shape.astype(int)),
    "Add": lambda x, y: x + y,
    "AddV2": lambda x, y: x + y,
    "AddN": lambda *inputs: np.sum(inputs, axis=0, dtype=inputs[0].dtype),
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
    "RealDiv": _real_div,
    "Div": _real_div,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Pow": np.power,
    "SquaredDifference": lambda x, y: np.square(x - y),
    "Neg": lambda x: -x,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Square": lambda x: x * x,
    "Exp": np.exp,
    "Log": np.log,
    "Reciprocal": lambda x: 1 / x,
    "Inv": lambda x: 1 / x,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Softmax": _softmax,
    "ReverseV2": lambda x, axes: np.flip(x, tuple(axes.astype(int).ravel())),
    "Select": _select,
    "SelectV2": np.where,
    "MatrixBandPart": _band,
}

# These read attributes, so they get the node first.
_BY_ATTRIBUTES: dict[str, Callable[..., Result]] = {
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Pack": lambda node, *inputs: np.stack(inputs, axis=attributes.value(node, "axis")),
    "Split": lambda node, axis, x: np.split(x, attributes.value(node, "num_split"), int(axis)),
    "Unpack": _unpack,
    "StridedSlice": _strided_slice,
    "Gather": _gather,
    "GatherV2": _gather,
    "Sum": _reduce(np.sum),
    "Mean": _reduce(np.mean),
    "Max": _reduce(np.max),
    "Min": _reduce(np.min),
    "MatMul": _matmul,
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "Einsum": _einsum,
    "Cumsum": _cumsum,
}

OPS = _PLAIN.keys() | _BY_ATTRIBUTES.keys()


def evaluate(node: Node, inputs: Sequence[Array], largest: int) -> list[Array]:
    """Compute the outputs of a node.

    Args:
      node: The node, its op one of `OPS`.
      inputs: The values of its inputs.
      largest: How many elements a result, or what is gone through for it, may have.

    Raises:
      ValueError, TypeError, IndexError, OverflowError, MemoryError: It is no arithmetic that is known here, or wrong.
    """
    if _size(node, inputs) > largest:
        raise ValueError("too large")
    with np.errstate(all="ignore"):
        plain = _PLAIN.get(node.op)
        result = plain(*inputs) if plain is not None else _BY_ATTRIBUTES[node.op](node, *inputs)
    return [np.asarray(array) for array in result] if isinstance(result, Sequence) else [np.asarray(result)]


def _size(node: Node, inputs: Sequence[Array]) -> int:
    """The most elements that the result of an op can have, or that it goes through."""
    if node.op in ("Fill", "BroadcastTo"):
        return math.prod(map(int, inputs[0 if node.op == "Fill" else 1].ravel()))
    if node.op == "Tile":
        return inputs[0].size * math.prod(map(int, inputs[1].ravel()))
    if node.op in ("Pad", "PadV2"):
        return math.prod(int(size + sum(ends)) for size, ends in zip(inputs[0].shape, inputs[1], strict=True))
    if node.op in ("Gather", "GatherV2", "MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum"):
        return math.prod(x.size for x in inputs)
    if node.op in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(x.shape for x in inputs)))
    return sum(x.size for x in inputs)


_ELEMENTWISE = frozenset({
    "Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "Maximum", "Minimum", "Pow", "SquaredDifference", "Select",
    "SelectV2",
})  # fmt: skip
