"""Let signatures that compute the same share their nodes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2

from tf_bnfold.formats.effects import VARIABLE_READS, effectful_functions, has_effect
from tf_bnfold.formats.model import GraphDef, Model, SignatureDef, node_name, tensor_names
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.variables import RESOURCE_VARIABLES

KERAS3_DOUBLE = ("serve", "serving_default")  # as Keras 3 exports them; a .tflite gets the second only
# What gives and does the same where its inputs are the same; of two signatures only one is run at a time.
_SAME_WITH_SAME_INPUTS = VARIABLE_READS | {
    *("LookupTableFind", "LookupTableFindV2", "LookupTableSize", "LookupTableSizeV2"),
    *("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"),
}

_THEMSELVES = RESOURCE_VARIABLES | {"Placeholder"}  # equal only to themselves, whatever their attributes


def share_equal_signatures(model: Model, keep: Sequence[str] = ()) -> Model:
    """Point a signature at the tensors of an earlier one when both compute the same from the same inputs.

    Keras 3 exports each model as `serve` and as `serving_default`; without this all would be folded, verified and
    stored twice. Two signatures are the same when their names, the dtypes and shapes of their inputs, and the structure
    of their graphs down to the constants and variables are; an op with effects is the same as itself only.

    Args:
      model: The model.
      keep: Names of nodes that are needed beside the model's outputs.

    Returns:
      The model with shared signatures, without the nodes that nothing needs any more.
    """
    if len(model.signatures) < 2:
        return model
    first: dict[object, str] = {}
    shared = {}
    notes = []
    for key, signature in _default_first(model.signatures):
        original = first.setdefault(_identity(model.graph_def, key, signature), key)
        if original != key:
            notes.append(_note(key, original))
        same = model.signatures[original]
        shared[key] = meta_graph_pb2.SignatureDef()
        shared[key].CopyFrom(signature)
        for mine, its in ((shared[key].inputs, same.inputs), (shared[key].outputs, same.outputs)):
            for name in mine:
                mine[name].CopyFrom(its[name])
    result = dataclasses.replace(model, signatures=dict(sorted(shared.items())), notes=(*model.notes, *notes))
    return result.with_graph(pruned(model.graph_def, [*result.outputs(), *keep]))


def _note(key: str, original: str) -> str:
    note = f"Signature {key} computes what {original} does, so the two share their nodes"
    return f"{note}, and a .tflite has {original} only." if (key, original) == KERAS3_DOUBLE else f"{note}."


def _default_first(signatures: Mapping[str, SignatureDef]) -> list[tuple[str, SignatureDef]]:
    return sorted(signatures.items(), key=lambda item: (item[0] != "serving_default", item[0]))


def _identity(graph_def: GraphDef, key: str, signature: SignatureDef) -> object:
    """Return a value that is equal for signatures that compute the same; the key itself where that can't be said."""
    inputs = {name: list(tensor_names(info)) for name, info in signature.inputs.items()}
    outputs = {name: list(tensor_names(info)) for name, info in signature.outputs.items()}
    feeds = {node_name(tensor): name for name, tensors in inputs.items() for tensor in tensors}
    if any(len(tensors) != 1 for tensors in (*inputs.values(), *outputs.values())) or len(feeds) < len(inputs):
        return key
    hashes = _hashes(pruned(graph_def, [tensor for tensors in outputs.values() for tensor in tensors]), feeds)
    if hashes is None:
        return key
    described = [(name, info.dtype, info.tensor_shape.SerializeToString()) for name, info in signature.inputs.items()]
    computed = []
    for name, (tensor,) in outputs.items():
        node, _, index = tensor.partition(":")
        computed.append((name, hashes[node], index))
    return (tuple(sorted(described)), tuple(sorted(computed)), signature.method_name)


def _hashes(graph_def: GraphDef, feeds: Mapping[str, str]) -> dict[str, bytes] | None:
    """Hash every node with all that it depends on; None for a graph with cycles (loops of TF1)."""
    effectful = effectful_functions(graph_def.library)
    nodes = {node.name: node for node in graph_def.node}
    waits = {name: len({node_name(value) for value in node.input}) for name, node in nodes.items()}
    readers: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for producer in sorted({node_name(value) for value in node.input}):
            readers.setdefault(producer, []).append(name)
    hashes: dict[str, bytes] = {}
    ready = deque(name for name, count in waits.items() if count == 0)
    while ready:
        name = ready.popleft()
        hashes[name] = _hash(nodes[name], hashes, feeds, effectful)
        for reader in readers.get(name, ()):
            waits[reader] -= 1
            if waits[reader] == 0:
                ready.append(reader)
    return hashes if len(hashes) == len(nodes) else None


def _hash(node: Any, hashes: Mapping[str, bytes], feeds: Mapping[str, str], effectful: frozenset[str]) -> bytes:
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)

    name = node.name
    add(node.op.encode())
    if name in feeds:
        add(b"feed " + feeds[name].encode())
    elif node.op not in _SAME_WITH_SAME_INPUTS and (has_effect(node, effectful) or node.op in _THEMSELVES):
        add(b"node " + name.encode())
    for key, attr in sorted(node.attr.items()):
        add(key.encode())
        add(attr.SerializeToString(deterministic=True))
    data = [value for value in node.input if not value.startswith("^")]
    controls = [value for value in node.input if value.startswith("^")]
    for value in [*data, "^", *sorted(controls, key=lambda value: hashes[value[1:]])]:
        producer, _, index = value.removeprefix("^").partition(":")
        add(hashes.get(producer, b"") + index.encode())
    return digest.digest()
