"""What a tensor's value depends on: decisions, chance, coarse dtypes."""

from __future__ import annotations

import dataclasses
import graphlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2

from tf_bnfold.formats.effects import V1_CONTROL_FLOW, VARIABLE_READS, has_effect
from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.prune import called_functions, function_names
from tf_bnfold.formats.tensors import input_dtypes, output_dtypes

# Ops that map floats to floats in steps. Ops from floats to integers or booleans are found by their dtypes.
_STEPS = frozenset({
    "Ceil", "Floor", "FloorDiv", "FloorMod", "Mod", "Rint", "Round", "Sign", "TruncateDiv", "TruncateMod",
    "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel",
    "QuantizeAndDequantize", "QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4",
    "CombinedNonMaxSuppression",
})  # fmt: skip
# From floats to integers, but not by the values of the floats. What IdentityN has of each stays apart.
_AS_IT_IS = frozenset({
    "IdentityN", "Shape", "ShapeN", "Size", "Rank", "TensorListElementShape", "BroadcastGradientArgs",
})  # fmt: skip
# Stateful in TensorFlow's books, yet the same input gives the same output.
_REPEATABLE = frozenset({
    "Assert", "CheckNumerics", "CheckNumericsV2", "Print", "PrintV2", "HashTable", "HashTableV2", "LookupTableFind",
    "LookupTableFindV2", "LookupTableSize", "LookupTableSizeV2",
    # State: runs start from its initial value and go in step.
    *VARIABLE_READS, "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterUpdate",
    "ResourceStridedSliceAssign", "VarIsInitializedOp",
})  # fmt: skip
_FLOATS = frozenset({
    types_pb2.DT_HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE,
    types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128,
})  # fmt: skip
_COARSE = {types_pb2.DT_BFLOAT16: tf.bfloat16, types_pb2.DT_HALF: tf.float16}  # the coarser first
_DEEPER = {
    "Enter": 1, "RefEnter": 1, "Switch": 1, "RefSwitch": 1, "_SwitchN": 1, "Merge": -1, "RefMerge": -1, "Exit": -2,
    "RefExit": -2,
}  # fmt: skip
_OPAQUE = frozenset({types_pb2.DT_VARIANT, types_pb2.DT_RESOURCE})


def deciding_nodes(graph_def: GraphDef) -> frozenset[str]:
    """Name the nodes that are not continuous in a float input: rounding may tip them, and then all behind them differs.

    An op is one that maps floats to integers, booleans or strings (comparisons, ArgMax, Where, casts, TopK,
    NonMaxSuppression, ...), or a named one (Floor, Round, FakeQuant, ...), or calls a function with such an op.
    """
    inside = _functions_with(graph_def.library, _decides)
    return frozenset(
        node.name for node in graph_def.node if _decides(node) or not inside.isdisjoint(function_names(node))
    )


def _functions_with(library: Any, condition: Callable[[Any], bool]) -> frozenset[str]:
    """Name the functions that have such a node, and those that call them."""
    found = {function.signature.name for function in library.function if any(map(condition, function.node_def))}
    return frozenset(
        function.signature.name
        for function in library.function
        if found and not found.isdisjoint({function.signature.name, *called_functions(function.node_def, library)})
    )


def _decides(node: Any) -> bool:
    if node.op in _STEPS:
        return any(dtype in _FLOATS for dtype in input_dtypes(node))
    if node.op in _AS_IT_IS or node.op in V1_CONTROL_FLOW or any(attr.HasField("func") for attr in node.attr.values()):
        return False
    outputs = set(output_dtypes(node))
    return bool(outputs - _FLOATS - _OPAQUE) and any(dtype in _FLOATS for dtype in input_dtypes(node))


def changeable_nodes(graph_def: GraphDef) -> frozenset[str]:
    """Name the nodes that need not give the same value twice: random ops, and stateful ones other than variables."""
    inside = _functions_with(graph_def.library, _is_changeable)
    return frozenset(
        node.name for node in graph_def.node if _is_changeable(node) or not inside.isdisjoint(function_names(node))
    )


def _is_changeable(node: Any) -> bool:
    return has_effect(node, ()) and node.op not in _REPEATABLE and not node.op.startswith("TensorArray")


def conditional_tensors(graph_def: GraphDef) -> Reach:
    """Find what is inside TF1 branches and loops: not each of these tensors has one value in a run.

    Switch leads into a branch and Merge out of it. A loop is Enter, Merge, Switch, its body and NextIteration back to
    that Merge, and Exit leads out of both the Switch and the Enter.

    Source: "Implementation of Control Flow in TensorFlow", Yu et al. 2017
    """
    if not any(node.op in V1_CONTROL_FLOW for node in graph_def.node):
        return Reach(frozenset())
    nodes = {node.name: node for node in graph_def.node}
    backward = {node.name for node in graph_def.node if node.op in ("NextIteration", "RefNextIteration")}
    before = {
        node.name: ({*map(node_name, node.input)} & nodes.keys()) - (backward if "Merge" in node.op else set())
        for node in graph_def.node
    }
    depths: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(before).static_order():
        closes_loop = not backward.isdisjoint(map(node_name, nodes[name].input))
        step = 0 if closes_loop else _DEEPER.get(nodes[name].op, 0)
        depths[name] = max(0, step + max((depths[each] for each in before[name]), default=0))
    return Reach(frozenset(name for name, depth in depths.items() if depth))


def coarsest_dtype(graph_def: GraphDef) -> Callable[[str], tf.DType]:
    """Return a function that tells the coarsest float dtype on the way to a tensor; insides of functions count too."""
    behind = {}
    for coarse, dtype in _COARSE.items():

        def is_coarse(node: Any, coarse: int = coarse) -> bool:
            return coarse in output_dtypes(node)

        inside = _functions_with(graph_def.library, is_coarse)
        behind[dtype] = reach(
            graph_def,
            [node.name for node in graph_def.node if is_coarse(node) or not inside.isdisjoint(function_names(node))],
        )
    return lambda tensor: next((dtype for dtype, tensors in behind.items() if tensor in tensors), tf.float32)


@dataclasses.dataclass(frozen=True)
class Reach:
    """The tensors that depend on some nodes. `in` takes names of tensors, or of nodes for their first output.

    Attributes:
      names: Nodes, all of whose outputs depend, and single outputs of IdentityN, whose inputs do not mix.
    """

    names: frozenset[str]

    def __contains__(self, tensor: str) -> bool:
        node, _, index = tensor.partition(":")
        return node in self.names or f"{node}:{index or 0}" in self.names


NOWHERE = Reach(frozenset())


def reach(graph_def: GraphDef, sources: Iterable[str], barred: Collection[str] = frozenset()) -> Reach:
    """Find these nodes, and what depends on their values by way of data and of no barred node."""
    apart = {node.name for node in graph_def.node if node.op == "IdentityN"}
    readers: dict[str, list[str]] = {}
    for node in graph_def.node:
        for position, value in enumerate(node.input):
            if not value.startswith("^"):
                producer, _, index = value.partition(":")
                source = f"{producer}:{index or 0}" if producer in apart else producer
                readers.setdefault(source, []).append(f"{node.name}:{position}" if node.name in apart else node.name)
    found = set(sources)
    pending = list(found)
    while pending:
        for reader in readers.get(pending.pop(), ()):
            if reader not in found and node_name(reader) not in barred:
                found.add(reader)
                pending.append(reader)
    return Reach(frozenset(found))
