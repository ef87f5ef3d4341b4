"""What of a model can be run here: all of it up to the ops that TensorFlow does not know, or has no body of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2

from tf_bnfold.formats.model import GraphDef, Model, SignatureDef, node_name, tensor_names
from tf_bnfold.formats.prune import function_names, pruned
from tf_bnfold.formats.tensors import tensor_infos, tensor_name
from tf_bnfold.graph.invariants import FUSED_MARKS
from tf_bnfold.verify.nature import reach


def runnable(model: Model) -> Model:
    """Cut a model off before its custom ops: what feeds them is an output then, in the place of what they lead to.

    A call of a function that only stands in for an op of TFLite is one of them, too: it computes nothing.

    Args:
      model: The model.

    Returns:
      A model that can be run; the very one that was given if it has no custom ops. An output that feeds a custom op is
      called by that and the number of its input, which is the same before and after folding.
    """
    absent = model.custom_ops | _stand_ins(model.graph_def.library)
    custom = [node for node in model.graph_def.node if not absent.isdisjoint(function_names(node))]
    if not custom:
        return model
    behind = reach(model.graph_def, [node.name for node in custom])
    signatures = {}
    for key, signature in model.signatures.items():
        needed = {node.name for node in pruned(model.graph_def, _fetched(signature)).node}
        feeding = dict(_feeding(model.graph_def, [node for node in custom if node.name in needed]))
        reduced = meta_graph_pb2.SignatureDef(inputs=signature.inputs, method_name=signature.method_name)
        for name, info in signature.outputs.items():
            if not any(tensor in behind for tensor in tensor_names(info)):
                reduced.outputs[name].CopyFrom(info)
        infos = tensor_infos(model.graph_def, [tensor for tensor in feeding.values() if tensor not in behind])
        for name, tensor in feeding.items():
            if tensor in infos:
                reduced.outputs[name].CopyFrom(infos[tensor])
        if reduced.outputs:
            signatures[key] = reduced
    reduced_model = dataclasses.replace(model, signatures=signatures, order={}, custom_ops=frozenset())
    graph_def = pruned(model.graph_def, reduced_model.outputs())
    origin = {key: _named_by_origin(signature, model.origin.get(key)) for key, signature in signatures.items()}
    return dataclasses.replace(reduced_model, origin=origin).with_graph(graph_def)


def _stand_ins(library: Any) -> frozenset[str]:
    """Name the functions that the TFLite converter puts an op in the place of, and that read none of their arguments.

    Source: https://github.com/tensorflow/models, research/object_detection/export_tflite_graph_lib_tf2.py
    """
    return frozenset(
        function.signature.name
        for function in library.function
        if function.signature.input_arg
        and not _reads_arguments(function)
        and any(mark in function.attr for mark in FUSED_MARKS)
    )


def _reads_arguments(function: Any) -> bool:
    """Tell whether what a function returns depends on an argument."""
    inputs = {node.name: node.input for node in function.node_def}
    pending, seen = list(function.ret.values()), set[str]()
    while pending:
        name = node_name(pending.pop().removeprefix("^"))
        if name not in inputs:
            return True
        if name not in seen:
            seen.add(name)
            pending.extend(inputs[name])
    return False


def _fetched(signature: SignatureDef) -> list[str]:
    return [name for info in signature.outputs.values() for name in tensor_names(info)]


def _feeding(graph_def: GraphDef, custom: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield a name for each input of a custom op, and its tensor; constants aside, which are not computed."""
    constants = {node.name for node in graph_def.node if node.op == "Const"}
    for node in custom:
        for position, value in enumerate(node.input):
            if not value.startswith("^") and node_name(value) not in constants:
                yield f"{node.name} input {position}", tensor_name(value)


def _named_by_origin(signature: SignatureDef, origin: SignatureDef | None) -> SignatureDef:
    """Return a signature by the tensors of the original, as far as those have other names there."""
    named = meta_graph_pb2.SignatureDef()
    named.CopyFrom(signature)
    for infos, known in ((named.inputs, origin.inputs), (named.outputs, origin.outputs)) if origin else ():
        for name in infos.keys() & known.keys():
            infos[name].name = known[name].name
    return named
