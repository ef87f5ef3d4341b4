"""Which chains of elements make a batch norm or an affine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.fold import sinks
from tf_bnfold.fold.elements import Element, Role
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.shapes import geometry
from tf_bnfold.graph.view import View
from tf_bnfold.outcome import Kind
from tf_bnfold.reasons import Refusal

ALIASES = frozenset({"Identity", "StopGradient", "PreventGradient", "Snapshot"})

# What may stand between an input of the graph and an affine that prepares it.
_MOVING = ALIASES | {
    "Cast", "Reshape", "Squeeze", "ExpandDims", "Transpose", "Slice", "StridedSlice", "Gather", "GatherV2", "ReverseV2",
    "ResizeNearestNeighbor", "ResizeBilinear", "ResizeBicubic",
}  # fmt: skip

# What may stand between a linear op and its own bias: the converter fuses the two all the same.
_BEFORE_BIAS = ALIASES | {"Squeeze", "Reshape", "ExpandDims", "BatchToSpaceND"}


@dataclasses.dataclass(eq=False)
class Site:
    """A batch norm or affine: a chain of elements, with nothing but aliases in between.

    Attributes:
      elements: Its elements, in order.
      nodes: Its elements' nodes and the aliases between them, in order.
      kind: What it is counted as.
      axis: The channel axis, or None when it does the same to every channel.
      affine: What the chain computes, and before it what has been merged into it.
      is_lone_scalar: Whether it does no more than multiply by one number or add one. It may be a part of what the
        converter fuses (the 1/6 of a hard-swish), unless it alone reads an input of the graph.
      reads_input: Whether it reads an input of the graph, or what was moved, picked or resized of it.
      is_merged: Whether another site has been merged into this one.
    """

    elements: tuple[Element, ...]
    nodes: tuple[Node, ...]
    kind: Kind
    axis: int | None
    affine: Affine
    is_lone_scalar: bool = False
    reads_input: bool = False
    is_merged: bool = False

    @property
    def first(self) -> Element:
        """The element that reads the site's input."""
        return self.elements[0]

    @property
    def output(self) -> Node:
        """The node that computes the site's value."""
        return self.nodes[-1]

    @property
    def form(self) -> str:
        """The ops, joined by "+"."""
        return "+".join(element.node.op for element in self.elements)

    @property
    def refusal(self) -> Refusal | None:
        """Why it is no affine here, or None."""
        return self.first.refusal


def find_sites(view: View, elements: dict[Node, Element]) -> list[Site]:
    """The sites of a graph, in topological order. A linear op's own bias is none."""
    live = [element for node, element in elements.items() if not view.graph.is_removed(node)]
    links = [(element.node, _link(view, elements, element)) for element in live]
    followers = {node: link for node, link in links if link is not None}
    inner = {element.node for element, _ in followers.values()}
    sites: list[Site] = []
    for element in live:
        if element.node in inner:
            continue
        chain = [element]
        aliases: dict[Node, list[Node]] = {}
        while chain[-1].node in followers:
            following, between = followers[chain[-1].node]
            aliases[following.node] = between
            chain.append(following)
        if is_own_bias(view, chain[0]):
            chain = chain[1:]
        sites.extend(_site(view, group, aliases) for group in _groups(view, chain))
    return sorted(sites, key=lambda site: site.nodes[0].order)


def is_own_bias(view: View, element: Element) -> bool:
    """Whether the element is the bias of the linear op right before it, on its channel axis."""
    if element.role is not Role.OFFSET or element.node.op == "Sub" or element.refusal is not None or element.is_scalar:
        return False
    producer = element.data.node
    while producer.op in _BEFORE_BIAS and producer.inputs and not view.graph.is_fed(producer):
        producer = producer.inputs[0].node
    if not sinks.is_sink_op(producer):
        return False
    return element.axis is None or element.axis == _channel_axis(view, producer, element)


def _channel_axis(view: View, producer: Node, element: Element) -> int | None:
    """The channel axis of a linear op's value as an element behind it sees it."""
    rank = view.shapes.rank(element.data)
    if rank is None or producer is not element.data.node:
        return None if rank is None else rank - 1
    if "data_format" in producer.proto.attr:
        return geometry.channel_axis(producer, rank)
    sink = sinks.sink_of(view, producer, behind=True, axis=element.axis)
    return rank - 1 if isinstance(sink, Refusal) else sink.axis_out


def _link(view: View, elements: dict[Node, Element], element: Element) -> tuple[Element, list[Node]] | None:
    """The element that alone reads this one's value, and the aliases between the two.

    One that is refused goes with others that are refused, so that a batch norm in several ops still is one.
    """
    aliases: list[Node] = []
    node = element.node
    while True:
        readers = view.graph.uses(Tensor(node, 0))
        if len(readers) != 1 or view.graph.is_fetched(node):
            return None
        use = readers[0]
        following = elements.get(use.node)
        if following is not None:
            fits = following.port == use.port and (following.refusal is None) == (element.refusal is None)
            same_axis = following.axis == element.axis or None in (following.axis, element.axis)
            return (following, aliases) if fits and same_axis else None
        if use.node.op not in ALIASES or view.graph.is_fed(use.node):
            return None
        node = use.node
        aliases.append(node)


def _groups(view: View, chain: list[Element]) -> Iterator[list[Element]]:
    """Cut a chain into batch norms and affines: [offset] scale... [offset] is one, and so is each other element."""
    rest = chain
    while rest:
        length = _group_length(view, rest)
        yield rest[:length]
        rest = rest[length:]


def _group_length(view: View, chain: list[Element]) -> int:
    at_input = _reads_graph_input(view, chain[0])

    def joins(index: int, role: Role) -> bool:
        if index >= len(chain) or chain[index].role is not role:
            return False
        # A number that stands alone may be part of what the converter fuses (hard-swish, GELU);
        # at the graph's input it is not.
        alike = chain[index].is_scalar == chain[index - 1].is_scalar or at_input
        one_axis = len({e.axis for e in chain[: index + 1] if e.axis is not None}) < 2
        return alike and one_axis

    head = chain[0].role
    if head in (Role.NORM, Role.MIRROR):
        return 1
    length = 1
    if head is Role.OFFSET and not joins(1, Role.SCALE):
        return 1
    while joins(length, Role.SCALE):
        length += 1
    return length + 1 if joins(length, Role.OFFSET) else length


def _reads_graph_input(view: View, element: Element) -> bool:
    """Whether an element reads an input of the graph, whose elements were moved, picked or resized at most."""
    node = element.data.node
    while node.op in _MOVING and node.inputs and not view.graph.is_fed(node):
        node = node.inputs[0].node
    return view.graph.is_fed(node)


def _site(view: View, group: list[Element], aliases: dict[Node, list[Node]]) -> Site:
    nodes = [group[0].node]
    affine = group[0].affine
    for element in group[1:]:
        nodes.extend(aliases.get(element.node, ()))
        nodes.append(element.node)
        affine = affine.then(element.affine)
    axis = next((element.axis for element in group if element.axis is not None), None)
    alone = all(element.is_scalar for element in group) and (affine.has_unit_scale or affine.has_zero_offset)
    reads_input = _reads_graph_input(view, group[0])
    lone = alone and not (reads_input and len(view.graph.uses(group[0].data)) == 1)
    return Site(tuple(group), tuple(nodes), _kind(group), axis, affine, is_lone_scalar=lone, reads_input=reads_input)


def _kind(group: list[Element]) -> Kind:
    if group[0].role is Role.NORM or any(e.rooted for e in group if e.role is Role.SCALE):
        return Kind.BATCH_NORM
    roles = [e.role for e in group if not e.is_scalar]
    is_norm = Role.SCALE in roles and roles[-1] is Role.OFFSET
    return Kind.BATCH_NORM if is_norm else Kind.AFFINE
