"""Keep what is needed: nodes that the outputs reach, and functions that those nodes name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tensorflow.core.framework import graph_pb2

from tf_bnfold.formats.model import GraphDef, node_name

_COLOCATED = b"loc:@"


def pruned(graph_def: GraphDef, outputs: Iterable[str]) -> GraphDef:
    """Copy what the outputs need: nodes in their order, and the library functions that these name.

    Args:
      graph_def: The graph; it is not changed.
      outputs: Names of nodes or tensors.

    Returns:
      A new GraphDef. Names in `outputs` that the graph does not have are passed over; so are colocations with nodes
      that are not needed, which TensorFlow would miss.
    """
    nodes = {node.name: node for node in graph_def.node}
    needed: set[str] = set()
    pending = [node_name(output) for output in outputs]
    while pending:
        name = pending.pop()
        if name in needed or name not in nodes:
            continue
        needed.add(name)
        pending += map(node_name, nodes[name].input)

    result = graph_pb2.GraphDef(versions=graph_def.versions)
    result.node.extend(node for node in graph_def.node if node.name in needed)
    for node in result.node:
        if "_class" in node.attr:
            _keep_colocations(node, needed)
    keep_functions(result, graph_def.library, called_functions(result.node, graph_def.library))
    return result


def _keep_colocations(node: Any, names: set[str]) -> None:
    groups = [
        group
        for group in node.attr["_class"].list.s
        if group.startswith(_COLOCATED) and group.removeprefix(_COLOCATED).decode("utf-8", "replace") in names
    ]
    if groups:
        node.attr["_class"].list.s[:] = groups
    else:
        del node.attr["_class"]


def keep_functions(graph_def: GraphDef, library: Any, names: set[str]) -> None:
    """Make the named functions of `library`, in their order, the library of `graph_def`."""
    functions = [function for function in library.function if function.signature.name in names]
    gradients = [gradient for gradient in library.gradient if {gradient.function_name, gradient.gradient_func} <= names]
    graph_def.ClearField("library")
    if functions:
        graph_def.library.function.extend(functions)
        graph_def.library.gradient.extend(gradients)


def called_functions(nodes: Iterable[Any], library: Any) -> set[str]:
    """Name the functions of `library` that the nodes call or hand on, and those that these reach."""
    bodies = {function.signature.name: function.node_def for function in library.function}
    if not bodies:
        return set()
    found: set[str] = set()
    pending = [name for node in nodes for name in function_names(node)]
    while pending:
        name = pending.pop()
        if name in found or name not in bodies:
            continue
        found.add(name)
        pending += [inner for node in bodies[name] for inner in function_names(node)]
    return found


def function_names(node: Any) -> Iterator[str]:
    """Yield the functions that a NodeDef may call: itself as a type of op, and its function attributes."""
    yield node.op
    for attr in node.attr.values():
        if attr.HasField("func"):
            yield attr.func.name
        elif attr.HasField("list"):
            yield from (function.name for function in attr.list.func)
