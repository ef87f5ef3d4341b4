"""The working graph: nodes that know their producers and readers, built from a GraphDef and written back to one.

The GraphDef that is given is never changed. Edits rewire nodes; a name that survives keeps its value, so a node whose
value changes is renamed when the graph is written, and its readers, control edges and `_class` follow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt
from tensorflow.core.framework import graph_pb2, node_def_pb2

from tf_bnfold.errors import InputError

Array = npt.NDArray[Any]
GraphDef: TypeAlias = graph_pb2.GraphDef

# Ops that read the shape of a value and nothing else: they don't mind when the value changes.
_SHAPE_READERS = frozenset({"Shape", "ShapeN", "Rank", "Size", "ZerosLike", "OnesLike"})

_SHORT_LOOK = 64
_LOOP_BACK = ("NextIteration", "RefNextIteration")
_SOURCES = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})


class Tensor(NamedTuple):
    """Output `index` of `node`."""

    node: Node
    index: int  # type: ignore[assignment]  # a field named like a method of tuple


class Use(NamedTuple):
    """`node` reads a tensor as its input `port`."""

    node: Node
    port: int


class Node:
    """One node, with its edges.

    Attributes:
      name: Its name in the graph that was given; the base of its name for a node that was added.
      op: Type of op.
      proto: The NodeDef it comes from; its name and inputs are those of the graph that was given.
      inputs: Data inputs.
      controls: Nodes that must run before it.
      readers: For each output index that is read: its uses, in order; keys of a dict, since a constant may have
        thousands of readers, and each edit takes one of them out.
      followers: Nodes that have this one among their controls, likewise.
      order: Its place in a topological order.
      carries: The name of the original graph whose value it now has, or None when its value is a new one.
      array: For a constant that an edit made: its value; float64, cast to the dtype when the graph is written.
      compute: For weights that an edit made: gives their value, in their dtype, when the graph is written, so that
        those of one op at a time are in memory.
      dtype: The DataType of output 0 once it was asked for (see `attributes.dtype`): it is asked for often.
    """

    __slots__ = (
        "array",
        "carries",
        "compute",
        "controls",
        "dtype",
        "followers",
        "inputs",
        "name",
        "op",
        "order",
        "proto",
        "readers",
    )

    def __init__(self, name: str, op: str, proto: node_def_pb2.NodeDef, carries: str | None) -> None:
        self.name = name
        self.op = op
        self.proto = proto
        self.inputs: list[Tensor] = []
        self.controls: list[Node] = []
        self.readers: dict[int, dict[Use, None]] = {}
        self.followers: dict[Node, None] = {}
        self.order = 0.0
        self.carries = carries
        self.array: Array | None = None
        self.compute: Callable[[], Array] | None = None
        self.dtype: int | None = None

    def __repr__(self) -> str:
        return f"<{self.op} {self.name}>"


class Graph:
    """The nodes of a GraphDef.

    Args:
      graph_def: The graph; it is not changed.
      outputs: Names of nodes or tensors whose name and value must survive; None for all nodes that nothing reads.
      inputs: Names of nodes or tensors that are fed: what computes them is not known.

    Raises:
      InputError: A name is given twice or does not exist, or the graph has a cycle that is no loop.
    """

    def __init__(self, graph_def: GraphDef, outputs: Iterable[str] | None, inputs: Iterable[str] = ()) -> None:
        self.source = graph_def
        self.nodes: dict[str, Node] = _nodes(graph_def)
        self._added: list[tuple[Node, Node]] = []  # (new node, the node that it is written before or after)
        self._removed: set[Node] = set()
        self._heirs: dict[Node, Node] = {}
        _connect(self.nodes)
        _number(self.nodes.values())
        self.fetched: dict[Node, set[int]] = {}
        for name in _ends(self.nodes) if outputs is None else outputs:
            tensor = self.tensor(name, "output")
            self.fetched.setdefault(tensor.node, set()).add(tensor.index)
        self.fed: frozenset[Node] = frozenset(self.tensor(name, "input").node for name in inputs)

    def tensor(self, name: str, role: str = "tensor") -> Tensor:
        """The tensor of a node or tensor name.

        Raises:
          InputError: There is no such node.
        """
        node_name, index = _split(name.lstrip("^"))
        if node_name not in self.nodes:
            raise InputError(f"{role} {name!r}: the graph has no node of that name; name a node of the graph")
        return Tensor(self.nodes[node_name], index)

    # What an edge may ask.

    def producer(self, node: Node, port: int) -> Node:
        """The node that computes input `port` of `node`."""
        return node.inputs[port].node

    def uses(self, tensor: Tensor) -> list[Use]:
        """The readers of a tensor's value; those of its shape alone don't count."""
        node, index = tensor
        return [use for use in node.readers.get(index, ()) if use.node.op not in _SHAPE_READERS]

    def is_fetched(self, node: Node) -> bool:
        """Whether an output of the graph is one of the node's."""
        return node in self.fetched

    def is_fed(self, node: Node) -> bool:
        """Whether what computes the node's value is not in the graph or not to be asked."""
        return node.op in _SOURCES or node in self.fed

    def is_removed(self, node: Node) -> bool:
        """Whether an edit has taken the node out."""
        return node in self._removed

    def heir(self, node: Node) -> Node:
        """The node that stands where `node` stood: itself, unless an edit has taken it out."""
        while node in self._heirs:
            node = self._heirs[node]
        return node

    def waits_for(self, node: Node, control: Node) -> bool:
        """Whether a node waits for another one, as far as a short look tells."""
        pending, seen = [node], dict[Node, None]()
        while pending and len(seen) < _SHORT_LOOK:
            current = pending.pop()
            if current is control:
                return True
            if current not in seen:
                seen[current] = None
                pending.extend(tensor.node for tensor in current.inputs)
                pending.extend(current.controls)
        return False

    # Edits.

    def set_input(self, node: Node, port: int, tensor: Tensor) -> None:
        """Let input `port` of `node` read `tensor`."""
        old, use = node.inputs[port], Use(node, port)
        _forget(old, use)
        node.inputs[port] = tensor
        tensor.node.readers.setdefault(tensor.index, {})[use] = None

    def add(self, node: Node, inputs: Sequence[Tensor], *, near: Node, behind: bool = False) -> Node:
        """Add a node that is written right before (or right behind) `near`, beside which it runs."""
        for port, tensor in enumerate(inputs):
            node.inputs.append(tensor)
            tensor.node.readers.setdefault(tensor.index, {})[Use(node, port)] = None
        node.order = near.order + (1e-9 if behind else -1e-9)
        if near.proto.device != node.proto.device:
            proto = node_def_pb2.NodeDef()  # the node's own may be shared, see `new_node`
            proto.CopyFrom(node.proto)
            proto.device = near.proto.device
            node.proto = proto
        self._added.append((node, near))
        return node

    def constant(
        self, name: str, array: Array | Callable[[], Array], dtype: int, near: Node, *, like: Tensor
    ) -> Tensor:
        """Add a constant; `array` is cast to the dtype (a DataType enum value) when the graph is written.

        It waits for what the constant `like` waits for: in a v1 loop that puts it into the loop's frame.
        """
        node = new_node(name, "Const", None, dtype=dtype)
        if callable(array):
            node.compute = array
        else:
            node.array = array
        self.add(node, (), near=near)
        for control in controls_of_constant(like.node):
            self.add_control(node, control)
        return Tensor(node, 0)

    def redirect(self, old: Tensor, new: Tensor) -> None:
        """Let every reader of `old` read `new`."""
        for use in list(old.node.readers.get(old.index, ())):
            self.set_input(use.node, use.port, new)

    def remove(self, node: Node, heir: Node) -> None:
        """Take out a node whose value nobody reads; what waits for it waits for `heir`."""
        for follower in node.followers:
            follower.controls = _unique([heir if c is node else c for c in follower.controls])
            heir.followers[follower] = None
        node.followers = {}
        self._release(node)
        self._heirs[node] = heir

    def hand_over(self, old: Node, new: Node) -> None:
        """Let `new` have the name, the value and the fetches of `old`, whose value changes."""
        new.carries, old.carries = old.carries, None
        if old in self.fetched:
            self.fetched[new] = self.fetched.pop(old)

    def add_control(self, node: Node, control: Node) -> None:
        """Let `node` run behind `control`."""
        if control is not node and control not in node.controls:
            node.controls.append(control)
            control.followers[node] = None

    def drop_unread(self, node: Node) -> None:
        """Take out a constant that an edit left without a reader, and the constants that only it read."""
        pending = [node]
        while pending:
            candidate = pending.pop()
            if candidate.readers or candidate.followers or candidate in self._removed:
                continue
            if candidate in self.fetched or self.is_fed(candidate):
                continue
            producers = [tensor.node for tensor in candidate.inputs]
            self._release(candidate)
            pending.extend(producers)

    def _release(self, node: Node) -> None:
        for control in node.controls:
            control.followers.pop(node, None)  # a control may be named twice
        node.controls = []
        for port, tensor in enumerate(node.inputs):
            _forget(tensor, Use(node, port))
        node.inputs = []
        self._removed.add(node)

    # The way back.

    def live(self) -> Iterator[Node]:
        """All nodes in the order in which they are written: the original's, new ones beside their neighbours."""
        before: dict[Node, list[Node]] = {}
        behind: dict[Node, list[Node]] = {}
        for node, near in self._added:
            (behind if node.order > near.order else before).setdefault(near, []).append(node)

        for node in self.nodes.values():
            beside = [node] if node not in before and node not in behind else _beside(node, before, behind)
            for current in beside:
                if current not in self._removed:
                    yield current

    def dissolve(self) -> None:
        """Cut all edges, when the graph is not needed any more.

        Nodes and edges refer to each other in circles, which only the garbage collector would find, and at some cost.
        """
        for node in [*self.nodes.values(), *(node for node, _ in self._added)]:
            node.inputs.clear()
            node.readers.clear()
            node.controls.clear()
            node.followers.clear()
            node.compute = None


def _beside(node: Node, before: dict[Node, list[Node]], behind: dict[Node, list[Node]]) -> Iterator[Node]:
    """A node between those that were added before and behind it, and between those beside them."""
    pending, opened = [node], set[Node]()
    while pending:
        current = pending.pop()
        if current in opened or (current not in before and current not in behind):
            yield current
            continue
        opened.add(current)
        pending.extend(reversed(behind.get(current, ())))
        pending.append(current)
        pending.extend(reversed(before.get(current, ())))


def new_node(name: str, op: str, carries: str | None, **attrs: int | bytes) -> Node:
    """Make a node that `Graph.add` takes in; an attribute is a DataType enum value or a string."""
    return Node(name, op, _template(op, **attrs), carries)


@functools.cache
def _template(op: str, **attrs: int | bytes) -> node_def_pb2.NodeDef:
    """A NodeDef that nodes with the same attributes share: they are few, and filling one in takes long."""
    proto = node_def_pb2.NodeDef(op=op)
    for key, value in attrs.items():
        if isinstance(value, bytes):
            proto.attr[key].s = value
        else:
            proto.attr[key].type = value
    return proto


def controls_of_constant(node: Node) -> Sequence[Node]:
    """What a constant, and the constants that it is computed from, wait for."""
    if not node.inputs:
        return tuple(node.controls)
    pending, seen = [node], dict[Node, None]()
    controls: list[Node] = []
    while pending:
        current = pending.pop()
        if current not in seen:
            seen[current] = None
            controls.extend(current.controls)
            pending.extend(tensor.node for tensor in current.inputs)
    return [control for control in _unique(controls) if control not in seen]


def _forget(tensor: Tensor, use: Use) -> None:
    readers = tensor.node.readers
    uses = readers[tensor.index]
    del uses[use]
    if not uses:
        del readers[tensor.index]


def _split(name: str) -> tuple[str, int]:
    node_name, colon, index = name.rpartition(":")
    return (node_name, int(index)) if colon and index.isdecimal() else (name, 0)


def _unique(nodes: Iterable[Node]) -> list[Node]:
    return list(dict.fromkeys(nodes))


def _ends(nodes: dict[str, Node]) -> Iterator[str]:
    return (name for name, node in nodes.items() if not node.readers and not node.followers)


def _nodes(graph_def: graph_pb2.GraphDef) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for proto in graph_def.node:
        name = proto.name
        if name in nodes:
            raise InputError(f"node {name!r}: the graph has two nodes of that name; rename one")
        nodes[name] = Node(name, proto.op, proto, carries=name)
    return nodes


def _connect(nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        for port, name in enumerate(node.proto.input):
            producer, index = nodes.get(name), 0  # most inputs are no more than the name of a node
            is_control = producer is None and name.startswith("^")
            if producer is None:
                node_name, index = (name[1:], 0) if is_control else _split(name)
                producer = nodes.get(node_name)
            if producer is None:
                raise InputError(f"node {node.name!r}: its input {name!r} is not in the graph; the graph is incomplete")
            if is_control:
                node.controls.append(producer)
                producer.followers[node] = None
                continue
            node.inputs.append(Tensor(producer, index))
            producer.readers.setdefault(index, {})[Use(node, port)] = None


def _number(nodes: Iterable[Node]) -> None:
    """Number the nodes in a topological order, in which the way back of a v1 loop (NextIteration) doesn't count."""
    waits = {node: len(node.inputs) + (len(set(node.controls)) if node.controls else 0) for node in nodes}
    for node in waits:
        if node.op in _LOOP_BACK:
            for reader in _readers(node):
                waits[reader] -= 1
    ready = [node for node, number in waits.items() if number == 0]
    for order, node in enumerate(ready):  # it grows on the way
        node.order = float(order)
        behind = _readers(node) if node.op not in _LOOP_BACK else []
        for reader in [*behind, *node.followers] if node.followers else behind:
            waits[reader] -= 1
            if waits[reader] == 0:
                ready.append(reader)
    if len(ready) < len(waits):
        name = min(node.name for node, number in waits.items() if number > 0)
        raise InputError(f"node {name!r}: it stands in or behind a cycle that is no loop; the graph is broken")


def _readers(node: Node) -> list[Node]:
    return [use.node for uses in node.readers.values() for use in uses]
