"""The ops of a graph as values, for whoever explains or draws it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from tf_bnfold.graph import functions
from tf_bnfold.graph.graph import Graph, GraphDef


@dataclasses.dataclass(frozen=True)
class Op:
    """One node of the graph before folding.

    Attributes:
      name: Its name.
      op: Its type.
      function: The library function that it is in; "" for the main graph.
      inputs: Names of the nodes whose outputs it reads, each once, without control edges.
      constant: Whether it is a constant, or computed from constants alone.
      survives: Whether the folded graph has a node of this name.
    """

    name: str
    op: str
    function: str
    inputs: tuple[str, ...]
    constant: bool
    survives: bool


def ops_of(before: GraphDef, after: GraphDef) -> tuple[Op, ...]:
    """List the nodes of a graph in topological order, those of functions behind those of the main graph.

    Args:
      before: The graph before folding.
      after: The graph after folding.
    """
    found = _of_graph(before, {node.name for node in after.node}, "")
    names = {function.signature.name: function.node_def for function in after.library.function}
    for function, body in functions.bodies(before):
        name = function.signature.name
        found += _of_graph(body.graph_def, {node.name for node in names.get(name, ())}, name)
    return tuple(found)


def _of_graph(graph_def: GraphDef, survivors: Collection[str], function: str) -> list[Op]:
    constants: set[str] = set()
    found = []
    for node in sorted(Graph(graph_def, None).nodes.values(), key=lambda node: node.order):
        inputs = tuple(dict.fromkeys(tensor.node.name for tensor in node.inputs))
        constant = node.op == "Const" or (bool(inputs) and constants.issuperset(inputs) and not node.controls)
        if constant:
            constants.add(node.name)
        found.append(Op(node.name, node.op, function, inputs, constant, node.name in survivors))
    return found
