"""The way back: a working graph as a GraphDef."""

from __future__ import annotations

from collections.abc import Iterable

from tensorflow.core.framework import graph_pb2, node_def_pb2

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Graph, Node

_CLASS_PREFIX = "loc:@"


def to_graph_def(graph: Graph) -> graph_pb2.GraphDef:
    """Write the graph. Nodes that no edit touched are copied as they are; library and versions are kept."""
    result = graph_pb2.GraphDef()
    if graph.source.HasField("versions"):
        result.versions.CopyFrom(graph.source.versions)
    if graph.source.HasField("library"):
        result.library.CopyFrom(graph.source.library)
    nodes = list(graph.live())
    names = _final_names(graph, nodes)
    for node in nodes:
        proto = result.node.add()
        _write(proto, node, names)
        if "_class" in proto.attr:
            _recolocate(proto, graph, names)
    return result


def _final_names(graph: Graph, nodes: Iterable[Node]) -> dict[Node, str]:
    taken = set(graph.nodes)
    names: dict[Node, str] = {}
    for node in nodes:
        if node.carries is not None:
            names[node] = node.carries
            continue
        base = f"{node.name}/folded" if graph.nodes.get(node.name) is node else node.name
        name, number = base, 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        names[node] = name
    return names


def _write(proto: node_def_pb2.NodeDef, node: Node, names: dict[Node, str]) -> None:
    """Write a node into an empty NodeDef."""
    proto.CopyFrom(node.proto)
    name = names[node]
    inputs = [names[producer] if index == 0 else f"{names[producer]}:{index}" for producer, index in node.inputs]
    if node.controls:
        inputs += [f"^{names[control]}" for control in node.controls]
    is_new = node.array is not None or node.compute is not None
    if is_new or name != node.name or inputs != list(proto.input):
        proto.name = name
        proto.input[:] = inputs
    if is_new:
        attributes.write_tensor(proto, node.array if node.compute is None else node.compute(), attributes.dtype(node))


def _recolocate(proto: node_def_pb2.NodeDef, graph: Graph, names: dict[Node, str]) -> None:
    """Let a node that stood with another one stand with what is in that one's place."""
    kept = []
    for group in proto.attr["_class"].list.s:
        name = group.decode("utf-8", "replace").removeprefix(_CLASS_PREFIX)
        node = graph.nodes.get(name)
        heir = name if node is None else names.get(graph.heir(node), "")
        if heir == name or (heir and heir != proto.name):
            kept.append((_CLASS_PREFIX + heir).encode())
    if kept:
        proto.attr["_class"].list.s[:] = kept
    else:
        del proto.attr["_class"]
