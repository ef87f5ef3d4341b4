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
    colocations = {}
    for node in graph.nodes.values():
        heir = graph.heir(node)
        if names.get(heir) != node.name:
            colocations[node.name] = names.get(heir, "")
    result.node.extend(_proto(node, names, colocations) for node in nodes)
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


def _proto(node: Node, names: dict[Node, str], colocations: dict[str, str]) -> node_def_pb2.NodeDef:
    inputs = [names[t.node] if t.index == 0 else f"{names[t.node]}:{t.index}" for t in node.inputs]
    inputs += [f"^{names[control]}" for control in node.controls]
    unchanged = node.name == names[node] and node.array is None and inputs == list(node.proto.input)
    if unchanged and not (colocations and "_class" in node.proto.attr):
        return node.proto
    proto = node_def_pb2.NodeDef()
    proto.CopyFrom(node.proto)
    proto.name = names[node]
    proto.input[:] = inputs
    if node.array is not None:
        attributes.write_tensor(proto, node.array, attributes.dtype(node))
    if "_class" in proto.attr:
        _recolocate(proto, colocations)
    return proto


def _recolocate(proto: node_def_pb2.NodeDef, colocations: dict[str, str]) -> None:
    groups = [group.decode("utf-8", "replace") for group in proto.attr["_class"].list.s]
    kept = []
    for group in groups:
        name = group.removeprefix(_CLASS_PREFIX)
        heir = colocations.get(name, name)
        if heir and heir != proto.name:
            kept.append((_CLASS_PREFIX + heir).encode())
    if kept:
        proto.attr["_class"].list.s[:] = kept
    else:
        del proto.attr["_class"]
