"""Which channels a Reshape carries where: elements keep their row-major order, so equal blocks of axes correspond."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from tf_bnfold.algebra.channels import ChannelMap, IntArray
from tf_bnfold.graph.shapes.geometry import Dim

# A block of more elements than this is not looked into.
_LARGEST_BLOCK = 1 << 24

_Block = tuple[range, range]


def reshape_maps(
    before: tuple[Dim, ...], after: tuple[Dim, ...], axis_in: int | None, axis_out: int | None
) -> Iterator[ChannelMap]:
    """The channel maps of a reshape of `before` to `after` that fit the axis that is given (the other one is None)."""
    for axes_in, axes_out in _blocks(before, after):
        if (axis_in is not None and axis_in not in axes_in) or (axis_out is not None and axis_out not in axes_out):
            continue
        if len(axes_in) == len(axes_out) == 1:
            yield ChannelMap(axes_in[0], axes_out[0], 0, 0)
            continue
        sizes_in, sizes_out = _sizes(before, axes_in), _sizes(after, axes_out)
        if sizes_in is None or sizes_out is None or math.prod(sizes_in) > _LARGEST_BLOCK:
            continue
        for a_in in [axis_in] if axis_in is not None else axes_in:
            for a_out in [axis_out] if axis_out is not None else axes_out:
                source, target = _channel(sizes_in, a_in - axes_in[0]), _channel(sizes_out, a_out - axes_out[0])
                yield ChannelMap(
                    a_in, a_out, sizes_in[a_in - axes_in[0]], sizes_out[a_out - axes_out[0]], source, target
                )


def _blocks(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> Iterable[_Block]:
    """Corresponding blocks of axes, from the right and from the left up to unknown dimensions."""
    if 0 in before or 0 in after:
        return []
    right = list(_matched(before[::-1], after[::-1]))
    done_in = sum(len(block[0]) for block in right)
    done_out = sum(len(block[1]) for block in right)
    rest_in, rest_out = before[: len(before) - done_in], after[: len(after) - done_out]
    left = list(_matched(rest_in, rest_out))
    first_in = sum(len(block[0]) for block in left)
    first_out = sum(len(block[1]) for block in left)
    blocks = list(left)
    middle_in = [axis for axis in range(first_in, len(rest_in)) if rest_in[axis] != 1]
    middle_out = [axis for axis in range(first_out, len(rest_out)) if rest_out[axis] != 1]
    if len(middle_in) == len(middle_out) == 1:
        # All else corresponds, so the one dimension that is left on each side is the same one.
        blocks.append((range(middle_in[0], middle_in[0] + 1), range(middle_out[0], middle_out[0] + 1)))
    for axes_in, axes_out in right:
        start_in, start_out = len(before) - axes_in.stop, len(after) - axes_out.stop
        blocks.append((range(start_in, start_in + len(axes_in)), range(start_out, start_out + len(axes_out))))
    return blocks


def _matched(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> Iterator[_Block]:
    """Smallest leading blocks of known dimensions with equal products."""
    i = j = 0
    while i < len(before) and j < len(after):
        start_i, start_j = i, j
        size_i, size_j = before[i], after[j]
        i, j = i + 1, j + 1
        while size_i is not None and size_j is not None and size_i != size_j:
            if size_i < size_j and i < len(before):
                size_i = _times(size_i, before[i])
                i += 1
            elif size_j < size_i and j < len(after):
                size_j = _times(size_j, after[j])
                j += 1
            else:
                return
        if size_i is None or size_j is None:
            return
        yield range(start_i, i), range(start_j, j)


def _times(product: int, dim: Dim) -> Dim:
    return None if dim is None else product * dim


def _sizes(shape: tuple[Dim, ...], axes: range) -> list[int] | None:
    sizes = [shape[axis] for axis in axes]
    return None if None in sizes else [size for size in sizes if size is not None]


def _channel(sizes: list[int], place: int) -> IntArray:
    """The index along one axis of a block, for each element in row-major order."""
    index = np.arange(sizes[place], dtype=np.intp).reshape([-1 if i == place else 1 for i in range(len(sizes))])
    return np.broadcast_to(index, sizes).ravel()
