"""Give variables the values that only a SavedModel's object graph leads to.

`tf.saved_model.save` of a Keras 3 model writes each variable twice: its signatures read one handle, and the restore op
that session loaders run assigns the other. TensorFlow 2's loader finds the values by way of the objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import gen_resource_variable_ops

from tf_bnfold.formats.effects import CALLS
from tf_bnfold.formats.meta_graph import MetaGraphDef
from tf_bnfold.formats.model import SignatureDef, node_name, tensor_names
from tf_bnfold.formats.variables import RESOURCE_VARIABLES


def assign_from_objects(
    session: Any, meta_graph: MetaGraphDef, signatures: Mapping[str, SignatureDef], read: Collection[str], path: str
) -> None:
    """Assign those variables of the session that have no value but have one in the object graph.

    Args:
      session: A session over the model's graph, restored.
      meta_graph: The MetaGraph as it was read.
      signatures: The signatures in use.
      read: Names of the nodes that inference needs.
      path: The SavedModel's folder.
    """
    operations = [op for op in session.graph.get_operations() if op.type in RESOURCE_VARIABLES and op.name in read]
    if not operations:
        return
    with session.graph.as_default():
        known = session.run([gen_resource_variable_ops.var_is_initialized_op(op.outputs[0]) for op in operations])
    missing = {op.name: op for op, is_known in zip(operations, known, strict=True) if not is_known}
    if not missing or not meta_graph.HasField("object_graph_def"):
        return
    tags = list(meta_graph.meta_info_def.tags)
    for name, value in dict(_values(meta_graph, signatures, path, tags)).items():
        if name in missing:
            handle = missing[name].outputs[0]
            with session.graph.as_default():
                fed = tf.compat.v1.placeholder(value.dtype, value.shape)
                session.run(gen_resource_variable_ops.assign_variable_op(handle, fed), {fed: value})


def _values(
    meta_graph: MetaGraphDef, signatures: Mapping[str, SignatureDef], path: str, tags: Iterable[str]
) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the variables that the signatures capture.

    A signature's node calls a function with the inputs and then the captures, in the order in which the loaded function
    has its captures.
    """
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    with context.eager_mode():
        loaded = tf.saved_model.load(path, list(tags))
        for key, signature in signatures.items():
            function = loaded.signatures[key]
            variables = {id(variable.handle): variable for variable in function.variables}
            captures = function.captured_inputs
            for tensor in (name for info in signature.outputs.values() for name in tensor_names(info)):
                call = nodes[node_name(tensor)]
                handles = list(call.input)[-len(captures) :] if call.op in CALLS and captures else []
                for handle, captured in zip(handles, captures, strict=False):
                    if id(captured) in variables:
                        yield node_name(handle), variables[id(captured)].numpy()
