"""Decide the branches of conditions that are constant, and cut the dead ones out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import op_def_registry, tensor_util

from tf_bnfold.formats.effects import V1_CONTROL_FLOW
from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.session import plain_config
from tf_bnfold.formats.tensors import tensor_name, unused

_SWITCH = frozenset({"Switch", "RefSwitch"})
_MERGE = frozenset({"Merge", "RefMerge"})
_CALL_OF = {"If": "StatefulPartitionedCall", "StatelessIf": "PartitionedCall"}
_INPUTS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})

Conditions = Mapping[str, bool]  # by tensor


@dataclasses.dataclass(frozen=True)
class Decided:
    """A graph in which constant conditions are decided.

    Attributes:
      graph_def: The graph.
      conditions: Number of Switch, If and StatelessIf ops that were decided.
      dead: Names of the nodes that never run; they are cut out.
    """

    graph_def: GraphDef
    conditions: int
    dead: frozenset[str]


def decide_switches(graph_def: GraphDef) -> Decided:
    """Decide each Switch and If whose condition is computed from constants alone.

    A Switch becomes an Identity of its data, read where its live side was. What its dead side reaches is cut out, up to
    the Merge, which becomes an Identity of its one live input. An If becomes a call of the branch that is taken.

    Args:
      graph_def: The graph; it is not changed.

    Returns:
      The graph, and what was decided in it.

    Source: Yuan Yu et al., "Dynamic Control Flow in Large-Scale Machine Learning" (2018), on Switch, Merge and dead
      tensors.
    """
    conditions = _constant_conditions(graph_def)
    if not conditions:
        return Decided(graph_def, 0, frozenset())
    decided = [node for node in graph_def.node if _condition(node) in conditions]
    dead = _Dead(graph_def, {node.name: conditions[_condition(node)] for node in decided if node.op in _SWITCH})
    if any(_has_dead_and_many_live(node, dead) for node in graph_def.node):
        return Decided(graph_def, 0, frozenset())  # what its value_index says then, no smaller Merge would say

    result = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library)
    taken = {node.name for node in graph_def.node}
    moved: dict[str, str] = {}
    for node in graph_def.node:
        if node.name in dead.nodes:
            continue
        if node.op in _SWITCH and _condition(node) in conditions:
            moved |= dict.fromkeys((f"{node.name}:0", f"{node.name}:1"), node.name)
            result.node.append(_identity(node, node.input[0]))
        elif node.op in _MERGE and dead.inputs(node):
            index = unused(f"{node.name}/value_index", taken)
            moved[f"{node.name}:1"] = index
            result.node.extend(_merged(node, dead, index))
        elif node.op in _CALL_OF and _condition(node) in conditions:
            result.node.append(_call(node, taken=conditions[_condition(node)]))
        else:
            result.node.append(node)
    for node in result.node:
        node.input[:] = [
            moved.get(value if value.startswith("^") else tensor_name(value), value) for value in node.input
        ]
    return Decided(result, len(decided), frozenset(dead.nodes))


def _condition(node: Any) -> str:
    """Return the tensor that decides a Switch or If, "" for other nodes."""
    if node.op in _SWITCH:
        return tensor_name(node.input[1])
    return tensor_name(node.input[0]) if node.op in _CALL_OF else ""


def _constant_conditions(graph_def: GraphDef) -> Conditions:
    """Evaluate the conditions that constants alone decide."""
    is_constant = _constancy(graph_def)
    wanted = {_condition(node) for node in graph_def.node if _condition(node)}
    tensors = sorted(tensor for tensor in wanted if is_constant(node_name(tensor)))
    if not tensors:
        return {}
    with tf.Graph().as_default(), quiet(), tf.compat.v1.Session(config=plain_config()) as session:
        try:
            tf.graph_util.import_graph_def(pruned(graph_def, tensors), name="")
            values = session.run(tensors)
        except (tf.errors.OpError, ValueError):  # it fails when the model runs, too
            return {}
    # TensorFlow's truth: a scalar that is not zero or empty, or an array that is not empty.
    return {
        tensor: bool(value.size) if getattr(value, "ndim", 0) else bool(value)
        for tensor, value in zip(tensors, values, strict=True)
    }


def _constancy(graph_def: GraphDef) -> Callable[[str], bool]:
    """Return a function that tells whether a node computes the same each time, from nothing that is fed or stored."""
    nodes = {node.name: node for node in graph_def.node}
    known: dict[str, bool] = {}

    opened: set[str] = set()

    def is_constant(name: str) -> bool:
        pending = [name]
        while pending:
            node = nodes.get(pending[-1])
            if node is None or not _is_plain(node):
                known[pending.pop()] = False
                continue
            opened.add(node.name)
            producers = [node_name(value) for value in node.input]
            waits = [producer for producer in producers if producer not in known and producer not in opened]
            if waits:
                pending += waits
            else:
                known[pending.pop()] = all(known.get(producer, False) for producer in producers)
        return known[name]

    return is_constant


def _is_plain(node: Any) -> bool:
    if node.op in _INPUTS or node.op in V1_CONTROL_FLOW or any(attr.HasField("func") for attr in node.attr.values()):
        return False
    op_def = op_def_registry.get(node.op)
    return op_def is not None and not op_def.is_stateful


class _Dead:
    """What never runs, given the sides that some Switches take.

    Attributes:
      nodes: Nodes that never run.
      tensors: Dead outputs of Switches that run.
    """

    def __init__(self, graph_def: GraphDef, sides: Mapping[str, bool]) -> None:
        self.nodes: set[str] = set()
        self.tensors = {f"{name}:{0 if side else 1}" for name, side in sides.items()}
        readers: dict[str, list[Any]] = {}
        for node in graph_def.node:
            for value in node.input:
                readers.setdefault(node_name(value), []).append(node)
        self._loop_back = {node.name for node in graph_def.node if node.op in ("NextIteration", "RefNextIteration")}
        pending = list(sides)
        while pending:
            for reader in readers.get(pending.pop(), ()):
                if reader.name not in self.nodes and self._kills(reader):
                    self.nodes.add(reader.name)
                    pending.append(reader.name)

    def __contains__(self, value: str) -> bool:
        """Tell whether an input of a NodeDef, data or control, is dead."""
        return node_name(value) in self.nodes or (not value.startswith("^") and tensor_name(value) in self.tensors)

    def inputs(self, merge: Any) -> list[str]:
        """List the dead data inputs of a Merge."""
        return [value for value in merge.input if not value.startswith("^") and value in self]

    def _kills(self, node: Any) -> bool:
        """Tell whether a node's inputs make it dead: any of them, for a Merge all (what comes back in a loop aside)."""
        if node.op not in _MERGE:
            return any(value in self for value in node.input)
        data = [value for value in node.input if not value.startswith("^") and node_name(value) not in self._loop_back]
        return all(value in self for value in data)


def _has_dead_and_many_live(node: Any, dead: _Dead) -> bool:
    if node.op not in _MERGE or node.name in dead.nodes or not dead.inputs(node):
        return False
    return sum(not value.startswith("^") and value not in dead for value in node.input) > 1


def _identity(node: Any, source: str) -> Any:
    identity = node_def_pb2.NodeDef(name=node.name, op="Identity", device=node.device)
    identity.input.append(source)
    identity.input.extend(value for value in node.input if value.startswith("^"))
    identity.attr["T"].CopyFrom(node.attr["T"])
    if "_class" in node.attr:
        identity.attr["_class"].CopyFrom(node.attr["_class"])
    return identity


def _merged(node: Any, dead: _Dead, index: str) -> Iterator[Any]:
    """Yield what a Merge with one live input is: that input, and the constant that says which one it is."""
    data = [value for value in node.input if not value.startswith("^")]
    (live,) = (position for position, value in enumerate(data) if value not in dead)
    identity = _identity(node, data[live])
    identity.input[:] = [value for value in identity.input if value not in dead]
    yield identity
    constant = node_def_pb2.NodeDef(name=index, op="Const", device=node.device)
    constant.attr["dtype"].type = types_pb2.DT_INT32
    constant.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(live, types_pb2.DT_INT32, []))
    yield constant


def _call(node: Any, *, taken: bool) -> Any:
    call = node_def_pb2.NodeDef(name=node.name, op=_CALL_OF[node.op], device=node.device)
    call.input.extend(node.input[1:])
    for name in ("Tin", "Tout", "_output_shapes"):
        if name in node.attr:
            call.attr[name].CopyFrom(node.attr[name])
    call.attr["f"].CopyFrom(node.attr["then_branch" if taken else "else_branch"])
    return call
