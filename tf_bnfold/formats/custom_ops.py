"""Ops that TensorFlow does not know, and that a TFLite interpreter has or is given, as TFLite_Detection_PostProcess."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import text_format
from tensorflow.core.framework import op_def_pb2, types_pb2
from tensorflow.lite.python import convert
from tensorflow.python.framework import kernels, op_def_registry

from tf_bnfold.errors import InputError
from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.tensors import output_dtypes, tensor_name

_OUTPUT_TYPES = "_output_types"  # what TensorFlow's exporters of detection models write
_KINDS = {"s": "string", "i": "int", "f": "float", "b": "bool", "type": "type", "shape": "shape", "tensor": "tensor"}

# What this process has told TensorFlow: it can't be told twice, nor told otherwise. These ops have kernels that compute
# nothing, which the converter needs to load a graph.
_registered: set[str] = set()


def register_custom_ops(graph_def: GraphDef) -> frozenset[str]:
    """Tell TensorFlow of the ops that it does not know, as the graph uses them.

    Such an op can be imported and converted then, not run. Its outputs are those that the node notes in
    `_output_types`, or else float32, as many as the graph reads.

    Args:
      graph_def: The graph.

    Returns:
      The ops of the graph that can not be run here.

    Raises:
      InputError: If it can not be told what an op takes, or two nodes use it in different ways.
    """
    nodes = {node.name: node for node in graph_def.node}
    ops = {node.op for node in graph_def.node} - {function.signature.name for function in graph_def.library.function}
    waiting: dict[str, list[Any]] = {}
    for node in graph_def.node:
        if node.op in ops and op_def_registry.get(node.op) is None:
            waiting.setdefault(node.op, []).append(node)
    while waiting:
        ready = [op for op, users in waiting.items() if all(_inputs_known(node, nodes) for node in users)]
        if not ready:
            op, users = next(iter(waiting.items()))
            raise InputError(
                f"it can not be told what {op} {users[0].name} takes: its inputs are custom ops that wait for it"
            )
        for op in ready:
            _registered.add(op)
            convert.register_custom_opdefs(
                [text_format.MessageToString(_definition(waiting.pop(op), nodes, graph_def))]
            )
    return frozenset(op for op in ops if op in _registered or not has_kernel(op))


def has_kernel(op: str) -> bool:
    """Tell whether TensorFlow has a kernel for an op that it knows, be it one that computes nothing."""
    return bool(kernels.get_registered_kernels_for_op(op).kernel)


def _producers(node: Any, nodes: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    """Yield the producer, and the number of its output, of each data input that is in the graph."""
    for value in node.input:
        if not value.startswith("^") and node_name(value) in nodes:
            yield nodes[node_name(value)], int(tensor_name(value).rpartition(":")[2])


def _inputs_known(node: Any, nodes: dict[str, Any]) -> bool:
    return all(op_def_registry.get(producer.op) is not None for producer, _ in _producers(node, nodes))


def _definition(users: Sequence[Any], nodes: dict[str, Any], graph_def: GraphDef) -> Any:
    """Write the OpDef of an op from the nodes that use it."""
    node = users[0]
    if not re.fullmatch(r"[A-Z][A-Za-z0-9_]*", node.op):
        raise InputError(f"{node.op} at {node.name} is no name of an op, which begins with a capital letter")
    forms = [(_input_types(user, nodes), _attributes(user)) for user in users]
    for user, form in zip(users, forms, strict=True):
        if form != forms[0]:
            raise InputError(
                f"{node.op} is used in two ways, at {node.name} and {user.name}: inputs or attributes differ"
            )
    definition = op_def_pb2.OpDef(name=node.op)
    inputs, attributes = forms[0]
    for position, dtype in enumerate(inputs):
        definition.input_arg.add(name=f"input_{position}", type=dtype)
    outputs: list[list[int]] = sorted((_output_types(user, graph_def) for user in users), key=len)
    for position, dtype in enumerate(outputs[-1]):
        definition.output_arg.add(name=f"output_{position}", type=dtype)
    for name, kind in sorted(attributes.items()):
        definition.attr.add(name=name, type=kind)
    return definition


def _input_types(node: Any, nodes: dict[str, Any]) -> list[int]:
    return [output_dtypes(producer)[index] for producer, index in _producers(node, nodes)]


def _output_types(node: Any, graph_def: GraphDef) -> list[int]:
    if _OUTPUT_TYPES in node.attr:
        return list(node.attr[_OUTPUT_TYPES].list.type)
    read = [int(tensor_name(v).rpartition(":")[2]) for n in graph_def.node for v in n.input if _reads(v, node.name)]
    return [types_pb2.DT_FLOAT] * (max(read, default=0) + 1)


def _reads(value: str, name: str) -> bool:
    return not value.startswith("^") and node_name(value) == name


def _attributes(node: Any) -> dict[str, str]:
    """Return the kind of each attribute, as an OpDef spells it; names that begin with "_" are not in it."""
    return {name: _kind(attr) for name, attr in node.attr.items() if not name.startswith("_")}


def _kind(attr: Any) -> str:
    if attr.WhichOneof("value") != "list":
        return _KINDS.get(attr.WhichOneof("value"), "string")
    return f"list({next((kind for field, kind in _KINDS.items() if len(getattr(attr.list, field))), 'int')})"
