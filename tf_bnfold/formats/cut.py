"""Cut the part out of a graph that leads from some tensors to others, as one signature."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tf_bnfold.errors import FlagError
from tf_bnfold.formats.model import GraphDef, Model, Order, SignatureDef, TensorInfo, node_name
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.surgery import near
from tf_bnfold.formats.tensors import output_dtypes, short_name, tensor_infos, tensor_name, unused

DEFAULT_KEY = "serving_default"
_METHOD = "tensorflow/serving/predict"
_PLACEHOLDERS = ("Placeholder", "PlaceholderV2")


def cut(model: Model, inputs: Sequence[str], outputs: Sequence[str]) -> Model:
    """Cut a model so that it leads from the inputs to the outputs.

    Each input becomes a Placeholder of the same name, dtype and shape, as far as the shape is known; the second output
    of a node, which no other node can be named like, one named `<node>_1`. What the outputs do not need goes.

    Args:
      model: The model; of several signatures the one that is cut is `serving_default`.
      inputs: Names of tensors, or of the signature's inputs; empty for the signature's inputs, or where there is no
        signature, for the placeholders that the outputs need.
      outputs: Names of tensors, or of the signature's outputs; empty for the signature's outputs.

    Returns:
      The model, with one signature. Inputs and outputs that were the signature's keep their names in it, others have
      the names of their nodes; they have the order in which they are given.

    Raises:
      FlagError: If a name is not there, the outputs need an input that is not named, or none needs one that is.
    """
    key, signature = _signature(model)
    fetches = _resolved("--output_nodes", outputs, signature.outputs, model.graph_def) or _tensors(signature.outputs)
    given = _resolved("--input_nodes", inputs, signature.inputs, model.graph_def)
    feeds = given or _tensors(signature.inputs) or _placeholders(model.graph_def, fetches)
    whole, renamed = _with_placeholders(model.graph_def, feeds)
    made = {name: renamed[tensor] for name, tensor in feeds.items()}
    results = {name: renamed.get(tensor, tensor) for name, tensor in fetches.items()}
    needed = pruned(whole, results.values())
    _require_inputs(needed, made, given)
    new = _described(whole, made, results, signature)
    origin = meta_graph_pb2.SignatureDef()
    origin.CopyFrom(new)
    for infos, tensors in ((origin.inputs, feeds), (origin.outputs, fetches)):
        for name, tensor in tensors.items():
            infos[name].name = tensor
    lost = sorted(model.signatures.keys() - {key})
    notes = [f"of the signatures only {key} is kept, not {', '.join(lost)}"] if lost else []
    order = {key: Order(tuple(made), tuple(results))}
    result = dataclasses.replace(model, graph_def=whole, signatures={key: new}, origin={key: origin}, order=order)
    return result.noting(*notes)


def _signature(model: Model) -> tuple[str, SignatureDef]:
    if not model.signatures:
        return DEFAULT_KEY, meta_graph_pb2.SignatureDef(method_name=_METHOD)
    if len(model.signatures) > 1 and DEFAULT_KEY not in model.signatures:
        there = ", ".join(sorted(model.signatures))
        raise FlagError(f"--input_nodes and --output_nodes cut one signature: name it by --signature_keys, of {there}")
    key = DEFAULT_KEY if DEFAULT_KEY in model.signatures else next(iter(model.signatures))
    for name, info in (*model.signatures[key].inputs.items(), *model.signatures[key].outputs.items()):
        if info.WhichOneof("encoding") != "name":
            raise FlagError(
                f"--input_nodes and --output_nodes can't cut signature {key}: its {name} is no single dense tensor"
            )
    return key, model.signatures[key]


def _tensors(infos: Mapping[str, TensorInfo]) -> dict[str, str]:
    return {name: info.name for name, info in sorted(infos.items())}


def _resolved(flag: str, names: Sequence[str], infos: Mapping[str, TensorInfo], graph_def: GraphDef) -> dict[str, str]:
    """Map names in the signature to tensors; where a name is that of a node too, the node is meant."""
    nodes = {node.name: node for node in graph_def.node}
    known = {info.name: name for name, info in infos.items()}
    resolved = {}
    for name in names:
        node, _, index = name.partition(":")
        if node in nodes:
            there = output_dtypes(nodes[node])
            if not (index or "0").isdecimal() or (there and int(index or 0) >= len(there)):
                raise FlagError(f"{flag} names {name}, but {nodes[node].op} {node} has no such output")
            tensor = tensor_name(name)
            resolved[known.get(tensor, short_name(tensor))] = tensor
        elif name in infos:
            resolved[name] = infos[name].name
        else:
            raise FlagError(f"{flag} names {name}, which the graph does not have{near(node, [*nodes, *infos])}")
    return resolved


def _placeholders(graph_def: GraphDef, fetches: Mapping[str, str]) -> dict[str, str]:
    """Find the placeholders that the outputs need.

    Raises:
      FlagError: If there is none.
    """
    found = {
        node.name: f"{node.name}:0" for node in pruned(graph_def, fetches.values()).node if node.op in _PLACEHOLDERS
    }
    if not found:
        raise FlagError(f"no placeholder leads to {', '.join(fetches)}; name the inputs by --input_nodes")
    return found


def _with_placeholders(graph_def: GraphDef, feeds: Mapping[str, str]) -> tuple[GraphDef, dict[str, str]]:
    """Put placeholders in the place of tensors.

    Returns:
      The graph, and the new name of each fed tensor.
    """
    ops = {node.name: node.op for node in graph_def.node}
    inner = [tensor for tensor in feeds.values() if ops[node_name(tensor)] not in _PLACEHOLDERS]
    infos = tensor_infos(graph_def, inner)
    taken = set(ops)
    renamed = {tensor: tensor for tensor in feeds.values()}
    made: dict[str, list[Any]] = {}  # by the node whose outputs they are
    for tensor in inner:
        node, _, index = tensor.partition(":")
        name = node if index == "0" else unused(f"{node}_{index}", taken)
        renamed[tensor] = f"{name}:0"
        made.setdefault(node, []).append(_placeholder(name, infos[tensor]))
    result = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        replaced = any(each.name == node.name for each in made.get(node.name, ()))
        result.node.extend(made.get(node.name, ()))
        if not replaced:
            result.node.append(node)
    for node in result.node:
        node.input[:] = [_renamed(value, renamed, made) for value in node.input]
    return result, renamed


def _placeholder(name: str, info: TensorInfo) -> Any:
    placeholder = node_def_pb2.NodeDef(name=name, op="Placeholder")
    placeholder.attr["dtype"].type = info.dtype
    placeholder.attr["shape"].shape.CopyFrom(info.tensor_shape)
    return placeholder


def _renamed(value: str, renamed: Mapping[str, str], made: Mapping[str, Sequence[Any]]) -> str:
    if value.startswith("^"):
        return f"^{made[value[1:]][0].name}" if value[1:] in made else value
    tensor = tensor_name(value)
    return short_name(renamed[tensor]) if tensor in renamed else value


def _require_inputs(needed: GraphDef, made: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise unless the placeholders of the graph are the inputs that were named."""
    there = {f"{node.name}:0" for node in needed.node if node.op in _PLACEHOLDERS}
    missing = sorted(there - set(made.values()))
    if missing:
        name = short_name(missing[0])
        raise FlagError(
            f"the outputs need placeholder {name} too: name it in --input_nodes, or fix it by --set_input {name}=VALUE"
        )
    for name, tensor in made.items():
        if name in given and tensor not in there:
            raise FlagError(f"--input_nodes names {name}, but no output needs it")
    for node in needed.node:
        for value in node.input:
            producer, _, index = value.partition(":")
            if f"{producer}:0" in there and index not in ("", "0"):
                raise FlagError(f"--input_nodes cuts at {producer}, but {node.name} needs {value} too: name it as well")


def _described(
    graph_def: GraphDef, inputs: Mapping[str, str], outputs: Mapping[str, str], before: SignatureDef
) -> SignatureDef:
    """Make the signature; what it says of tensors that it keeps is kept."""
    signature = meta_graph_pb2.SignatureDef(method_name=before.method_name or _METHOD)
    known = {info.name: info for infos in (before.inputs, before.outputs) for info in infos.values()}
    infos = {**tensor_infos(graph_def, [*inputs.values(), *outputs.values()]), **known}
    for target, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for name, tensor in tensors.items():
            target[name].CopyFrom(infos[tensor])
    return signature
