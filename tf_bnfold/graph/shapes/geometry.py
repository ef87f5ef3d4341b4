"""Axes, windows and broadcasting: arithmetic on shapes that needs one node at most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node

Dim = int | None
Shape = tuple[Dim, ...] | None
Elements = npt.NDArray[np.object_] | None  # ints, and None or an `Unknown` where unknown


def channel_axis(node: Node, rank: int) -> int:
    """The channel axis by the attribute data_format."""
    return 1 if (attributes.value(node, "data_format") or "NHWC").startswith("NC") else rank - 1


def broadcast(*shapes: Shape) -> Shape:
    """The shape that numpy broadcasting gives; an unknown dimension stays unknown unless another one decides."""
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max((len(shape) for shape in known), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        dims = [shape[axis - rank + len(shape)] for shape in known if axis - rank + len(shape) >= 0]
        large = [d for d in dims if d is not None and d != 1]
        result.append(large[0] if large else (None if None in dims else 1))
    return tuple(result)


def window(size: Dim, kernel: int, stride: int, dilation: int, padding: str, explicit: tuple[int, int]) -> Dim:
    """The output size of a sliding window."""
    if size is None:
        return None
    if padding == "SAME":
        return -(-size // stride)
    reach = (kernel - 1) * dilation + 1
    return (size + sum(explicit) - reach) // stride + 1


def same_padding(size: Dim, kernel: int, stride: int, dilation: int) -> int | None:
    """How many zeros SAME adds in total, or None when the size decides and is unknown.

    Source: TensorFlow, `tf.nn` "Notes on padding".
    """
    reach = (kernel - 1) * dilation + 1
    if reach == 1:
        return 0
    if size is None:
        return None
    return max((-(-size // stride) - 1) * stride + reach - size, 0)


def explicit_pads(node: Node, rank: int) -> list[tuple[int, int]]:
    """`explicit_paddings` as a pair per axis; zeros where the padding is another one."""
    if attributes.value(node, "padding") != "EXPLICIT":
        return [(0, 0)] * rank
    flat = attributes.value(node, "explicit_paddings")
    return [(int(flat[2 * axis]), int(flat[2 * axis + 1])) for axis in range(rank)]


def per_axis(node: Node, name: str, rank: int) -> list[int]:
    """A list attribute such as strides or dilations with one number per axis."""
    values = attributes.value(node, name)
    return [int(v) for v in values] if values else [1] * rank


def product(dims: Sequence[Dim]) -> Dim:
    """The product of dimensions, or None when one is unknown."""
    return None if None in dims else math.prod(d for d in dims if d is not None)


def total(dims: Sequence[Dim]) -> Dim:
    """The sum of dimensions, or None when one is unknown."""
    return None if None in dims else sum(d for d in dims if d is not None)


def of_proto(proto: Any) -> Shape:
    """The shape that a TensorShapeProto states."""
    if proto.unknown_rank:
        return None
    return tuple(d.size if d.size >= 0 else None for d in proto.dim)


def einsum_terms(equation: str, ranks: Sequence[int | None]) -> list[str] | None:
    """The labels of an Einsum's operands and, last, of its output, with "..." written out in labels of its own."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if not arrow or len(operands) != len(ranks):
        return None
    spare = [chr(place) for place in range(0x100, 0x100 + 16)]
    widest = 0
    terms = []
    for labels, rank in zip(operands, ranks, strict=True):
        if "..." in labels:
            if rank is None or not 0 <= rank - len(labels) + 3 <= len(spare):
                return None
            width = rank - len(labels) + 3
            widest = max(widest, width)
            labels = labels.replace("...", "".join(spare[len(spare) - width :]))
        terms.append(labels)
    return [*terms, right.replace("...", "".join(spare[len(spare) - widest :]))]
