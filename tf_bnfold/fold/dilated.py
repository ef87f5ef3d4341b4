"""SpaceToBatchND - convolution - BatchToSpaceND is one dilated convolution, where paddings and crops say that it is.

SpaceToBatchND cuts a padded axis into `block` phases, on each of which the convolution runs, and BatchToSpaceND lets
the phases take turns again. So neighbouring taps read positions that lie `block` apart: a dilated convolution of the
padded value, less the crops. A crop at an end takes back what was padded there, and what the convolution pads on each
phase counts `block` times.

Elementwise ops between the convolution and BatchToSpaceND do the same on either side of it.

Source: https://www.tensorflow.org/api_docs/python/tf/nn/with_space_to_batch
"""

from __future__ import annotations

import dataclasses

from tf_bnfold.fold.elements import read_element
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Graph, Node, Tensor
from tf_bnfold.graph.shapes import geometry
from tf_bnfold.graph.shapes.unknown import Number, minus, plus
from tf_bnfold.graph.view import View

_ELEMENTWISE = frozenset({
    "Identity", "StopGradient", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Abs",
    "Neg",
})  # fmt: skip

_BINARY = frozenset({"Add", "AddV2", "Sub", "Mul", "RealDiv"})

# TensorFlow's kernels for the CPU know dilated depthwise convolutions of this dtype only.
_DTYPES = {"DepthwiseConv2dNative": ("float32",), "Conv2D": ("float16", "bfloat16", "float32", "float64")}


@dataclasses.dataclass(frozen=True)
class _Chain:
    """What stands between a SpaceToBatchND and its BatchToSpaceND.

    Attributes:
      split: The SpaceToBatchND.
      expand: The ExpandDims that makes an image of a sequence, or None.
      conv: The convolution.
      behind: What stands behind it: elementwise ops, and the Squeeze that takes the axis of `expand` off again.
      join: The BatchToSpaceND.
      block: How many phases each blocked axis has.
      axes: Which axis of the convolution's data each of them is.
    """

    split: Node
    expand: Node | None
    conv: Node
    behind: tuple[Node, ...]
    join: Node
    block: tuple[int, ...]
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Window:
    """How the dilated convolution reads its input: a dilation and what is padded, per axis of the data."""

    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    is_same: bool

    @property
    def padding(self) -> str:
        """The value of the attribute."""
        if not any(map(any, self.pads)):
            return "VALID"
        return "SAME" if self.is_same else "EXPLICIT"

    @property
    def explicit(self) -> list[int]:
        """What is padded, where the attribute `padding` does not say it."""
        return [size for pair in self.pads for size in pair] if self.padding == "EXPLICIT" else []


def collapse(view: View) -> tuple[str, ...]:
    """Make one dilated convolution of each such triple. The shapes that the view knows are not true behind that.

    Returns:
      The names that the convolutions have in the graph that was given.
    """
    graph = view.graph
    splits = [node for node in graph.nodes.values() if node.op == "SpaceToBatchND" and not graph.is_removed(node)]
    chains = [chain for split in splits if (chain := _chain(view, split)) is not None]
    found = [(chain, window) for chain in chains if (window := _window(view, chain)) is not None]
    for chain, window in found:
        _apply(view.graph, chain, window)
    return tuple(chain.conv.name for chain, _ in found)


def _chain(view: View, split: Node) -> _Chain | None:
    """Follow what a SpaceToBatchND gives to a BatchToSpaceND, while nothing else reads it."""
    block, rank = view.shapes.ints(split.inputs[1]), view.shapes.rank(split.inputs[0])
    expand, added = None, None
    conv = _only_reader(view.graph, split)
    if conv is not None and conv.op == "ExpandDims":
        expand, added = conv, view.shapes.ints(conv.inputs[1])
        conv = _only_reader(view.graph, expand)
    if conv is None or conv.op not in _DTYPES or block is None or rank is None or (expand is None) != (added is None):
        return None
    new = added[0] % (rank + 1) if added else None
    if new is not None and new in (0, geometry.channel_axis(conv, 4)):
        return None  # batch and channel of the convolution have to be those of the value
    behind: list[Node] = []
    node = _only_reader(view.graph, conv)
    while node is not None and node.op != "BatchToSpaceND":
        if node.op == "Squeeze" and new is not None and _squeezes(node, new):
            new = None
        elif not _is_elementwise(view, node, conv):
            return None
        behind.append(node)
        node = _only_reader(view.graph, node)
    if node is None or new is not None or view.shapes.ints(node.inputs[1]) != block:
        return None
    first = added[0] % (rank + 1) if added else rank
    axes = tuple(axis + (axis >= first) for axis in range(1, 1 + len(block)))
    return _Chain(split, expand, conv, tuple(behind), node, tuple(block), axes)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    """The node that alone reads another one, as its data, where neither waits for anything or is fed."""
    uses = [use for uses in node.readers.values() for use in uses]
    if len(uses) != 1 or uses[0].port != _data_port(uses[0].node, node) or graph.is_fetched(node):
        return None
    reader = uses[0].node
    waits = node.controls or node.followers or reader.controls
    fed = graph.is_fed(node) or graph.is_fed(reader)
    return None if waits or fed or attributes.unknown(reader) else reader


def _data_port(reader: Node, node: Node) -> int:
    """The input through which a reader may take a value that becomes another one; for sums and products either."""
    ports = [port for port, tensor in enumerate(reader.inputs) if tensor.node is node]
    return ports[0] if reader.op in _BINARY else 0


def _squeezes(node: Node, axis: int) -> bool:
    """Whether a Squeeze takes off one axis of four, and which is this one."""
    return [int(a) % 4 for a in attributes.value(node, "squeeze_dims") or ()] == [axis]


def _is_elementwise(view: View, node: Node, conv: Node) -> bool:
    """Whether an op does the same to every position: a function of one value, or an affine on the channel axis."""
    if node.op in _ELEMENTWISE:
        return True
    element, rank = read_element(view, node), view.shapes.rank(Tensor(node, 0))
    if element is None or element.refusal is not None or rank is None:
        return False
    channel = geometry.channel_axis(conv, rank)
    if element.axis not in (None, channel):
        return False
    if node.op not in _BINARY:
        return True
    shape = view.shapes.of(node.inputs[1 - element.port])
    return shape is not None and all(size == 1 or axis == channel for axis, size in enumerate(shape, rank - len(shape)))


def _window(view: View, chain: _Chain) -> _Window | None:
    """The window of the dilated convolution, or None where the triple is no convolution of stride 1, or may be none."""
    conv = chain.conv
    if attributes.numpy_dtype(attributes.dtype(conv)).name not in _DTYPES[conv.op]:
        return None
    if attributes.unknown(conv) or attributes.unknown(chain.split) or attributes.unknown(chain.join):
        return None
    weights = view.shapes.of(conv.inputs[1])
    channel = geometry.channel_axis(conv, 4)
    spatial = [axis for axis in (1, 2, 3) if axis != channel]
    if weights is None or geometry.per_axis(conv, "strides", 4) != [1] * 4:
        return None
    kernel = dict(zip(spatial, weights[:2], strict=True))
    inner, dilations = _inner_pads(conv, kernel), geometry.per_axis(conv, "dilations", 4)
    added, taken = view.shapes.symbols(chain.split.inputs[2]), view.shapes.symbols(chain.join.inputs[2])
    if inner is None or added is None or taken is None:
        return None
    pads = list(inner)
    for place, (times, axis) in enumerate(zip(chain.block, chain.axes, strict=True)):
        both = [_less(added[place][end], times * inner[axis][end], taken[place][end]) for end in (0, 1)]
        if both[0] is None or both[1] is None:
            return None
        if axis not in spatial and (times != 1 or [*added[place], *taken[place]] != [0] * 4):
            return None
        pads[axis] = (both[0], both[1])
        dilations[axis] *= times
    same = [_same_pads(kernel[axis], dilations[axis]) if axis in spatial else (0, 0) for axis in range(4)]
    return _Window(tuple(dilations), tuple(pads), same == pads)


def _inner_pads(conv: Node, kernel: dict[int, int | None]) -> list[tuple[int, int]] | None:
    """What a convolution of stride 1 pads, per axis of its data; None where the size of the kernel is not known."""
    if None in kernel.values():
        return None
    if attributes.value(conv, "padding") != "SAME":
        return geometry.explicit_pads(conv, 4)
    dilations = geometry.per_axis(conv, "dilations", 4)
    return [_same_pads(kernel[axis], dilations[axis]) if axis in kernel else (0, 0) for axis in range(4)]


def _same_pads(kernel: int | None, dilation: int) -> tuple[int, int]:
    """What SAME pads before and behind, for stride 1."""
    total = ((kernel or 1) - 1) * dilation
    return total // 2, total - total // 2


def _less(added: Number, inner: int, taken: Number) -> int | None:
    """What is padded less what is cropped; None where that is not known, or where more than padding is cropped."""
    left = minus(plus(added, inner), taken)
    return left if isinstance(left, int) and left >= 0 else None


def _apply(graph: Graph, chain: _Chain, window: _Window) -> None:
    """Put the dilated convolution in the place of the three; what carries their value takes BatchToSpaceND's name."""
    split, conv, join = chain.split, chain.conv, chain.join
    steering = [tensor.node for node in (split, join) for tensor in node.inputs[1:]]
    conv.proto = attributes.with_window(conv.proto, window.dilations, window.padding, window.explicit)
    graph.set_input(chain.expand or conv, 0, split.inputs[0])
    for node in (chain.expand, conv, *chain.behind):
        if node is not None:
            node.proto = attributes.without_shapes(node.proto)
            node.carries = None
    last = chain.behind[-1] if chain.behind else conv
    graph.redirect(Tensor(join, 0), Tensor(last, 0))
    graph.hand_over(join, last)
    graph.remove(split, split.inputs[0].node)
    graph.remove(join, last)
    for node in steering:
        graph.drop_unread(node)
