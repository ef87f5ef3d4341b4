"""Load a SavedModel of any age into a Model, and save a Model as a SavedModel."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow.python.saved_model import constants

from tf_bnfold.errors import InputError
from tf_bnfold.formats.effects import effectful_functions, has_effect
from tf_bnfold.formats.freeze import Frozen, freeze_variables
from tf_bnfold.formats.meta_graph import (
    MetaGraphDef,
    assets_of,
    choose_signatures,
    initializer,
    one_line,
    read_meta_graph,
)
from tf_bnfold.formats.model import Asset, GraphDef, Model, SignatureDef
from tf_bnfold.formats.object_graph import assign_from_objects
from tf_bnfold.formats.prepare import prepared
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.session import plain_config
from tf_bnfold.formats.sound import refuse_broken, refuse_missing, refuse_wrong_names
from tf_bnfold.formats.surgery import Surgery
from tf_bnfold.formats.variables import VARIABLES, variable_uses, with_marked_reads

_SHOWN = 5  # variables in a note


def load_saved_model(
    path: str,
    *,
    tags: Sequence[str] = ("serve",),
    signature_keys: Sequence[str] = (),
    surgery: Surgery | None = None,
) -> Model:
    """Load a SavedModel from Keras 3, Keras 2, TF2 or TF1 as one flat graph of constants.

    Only the MetaGraph and its checkpoint are read, not the object graph, so models load whose Python classes are gone.

    Args:
      path: The folder.
      tags: Tags of the MetaGraph, all of them.
      signature_keys: Signatures to keep; empty for all.
      surgery: What to change in the graph first.

    Returns:
      The model: what its signatures, init op and assets need.

    Raises:
      InputError: If the folder can't be used; the message names what is wrong in it.
      FlagError: If what is to be changed can't be.

    Source: https://www.tensorflow.org/guide/saved_model
    """
    meta_graph = read_meta_graph(path, tags)
    refuse_wrong_names(meta_graph.graph_def, path)
    signatures = choose_signatures(meta_graph, signature_keys, path)
    init_op = initializer(meta_graph)
    assets = assets_of(meta_graph, path)
    model = Model(meta_graph.graph_def, signatures, init_op, assets, tags=tuple(meta_graph.meta_info_def.tags))

    graph_def = pruned(meta_graph.graph_def, [*model.outputs(), *_saver_nodes(meta_graph)])
    refuse_broken(graph_def, path)
    tensors = [name for name in model.outputs() if name != init_op] + [*_saver_nodes(meta_graph)[:1]]
    refuse_missing(graph_def, tensors, [name for name in (init_op, *_saver_nodes(meta_graph)[1:]) if name], path)
    surgery = surgery or Surgery()
    graph_def = with_marked_reads(graph_def, [name for name in model.outputs() if name != init_op])
    try:
        model = prepared(model.with_graph(graph_def), surgery, path, keep=_saver_nodes(meta_graph))
        frozen = _frozen(model, meta_graph, path)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} can not be loaded: {one_line(error)}") from error
    return _without_idle_init(_without_state(frozen) if surgery.cuts else frozen)


def _saver_nodes(meta_graph: MetaGraphDef) -> tuple[str, ...]:
    saver = meta_graph.saver_def
    return (saver.filename_tensor_name, saver.restore_op_name) if saver.restore_op_name else ()


def _frozen(model: Model, meta_graph: MetaGraphDef, path: str) -> Model:
    """Restore the variables, run the init op, and freeze the graph."""
    outputs = [name for name in model.outputs() if name != model.init_op]
    read = [node.name for node in pruned(model.graph_def, outputs).node if node.op in VARIABLES]
    with tf.Graph().as_default(), quiet(), tf.compat.v1.Session(config=plain_config()) as session:
        saver = _imported(model, meta_graph, read)
        if saver is not None:
            _restore(session, saver, path)
        if model.init_op:
            try:
                session.run(model.init_op, {asset.tensor_name: asset.path for asset in model.assets})
            except tf.errors.OpError as error:
                raise InputError(f"the init op {model.init_op} of {path} fails: {one_line(error)}") from error
        assign_from_objects(session, meta_graph, model.signatures, read, path)
        frozen = freeze_variables(session, model.graph_def, outputs, model.init_op)
    result = dataclasses.replace(model, graph_def=frozen.graph_def, init_op=frozen.init_op, state=frozen.state)
    return result.noting(*_notes_on_state(model.graph_def, outputs, frozen))


def _notes_on_state(graph_def: GraphDef, outputs: Sequence[str], frozen: Frozen) -> Iterator[str]:
    if frozen.state:
        yield (
            f"the signatures write variables: {_listed(frozen.state)}; they stay variables, and node {frozen.init_op}, "
            "which loading the model runs, gives them the values in the SavedModel"
        )
    read = {use.variable for use in variable_uses(pruned(graph_def, outputs)) if use.is_marked}
    if lost := sorted(read.difference(frozen.state)):
        yield f"what is left of the model does not write variables {_listed(lost)} any more: they are constants"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _imported(model: Model, meta_graph: MetaGraphDef, variables: Sequence[str]) -> tf.compat.v1.train.Saver | None:
    """Import what has to do with state, and return the saver that restores it, if there is one.

    The ops of inference stay out, as some may have no kernel here.
    """
    assets = [asset.tensor_name for asset in model.assets]
    state = pruned(model.graph_def, [*variables, *assets, model.init_op, *_saver_nodes(meta_graph)])
    slim = meta_graph_pb2.MetaGraphDef(meta_info_def=meta_graph.meta_info_def, graph_def=state)
    if meta_graph.saver_def.restore_op_name:
        slim.saver_def.CopyFrom(meta_graph.saver_def)
    return tf.compat.v1.train.import_meta_graph(slim)


def _restore(session: tf.compat.v1.Session, saver: tf.compat.v1.train.Saver, path: str) -> None:
    prefix = os.path.join(path, constants.VARIABLES_DIRECTORY, constants.VARIABLES_FILENAME)
    has_variables = any(op.type in VARIABLES for op in session.graph.get_operations())
    if not os.path.exists(f"{prefix}.index"):
        if has_variables:
            raise InputError(f"{path} has variables but no checkpoint of them: {prefix}.index is missing")
        return
    try:
        saver.restore(session, prefix)
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(
            f"the variables in {os.path.dirname(prefix)} can not be restored: {one_line(error)}"
        ) from error


def _without_state(model: Model) -> Model:
    """Drop init op and assets of a model that was cut, if what is left of it reads no table."""
    effectful = effectful_functions(model.graph_def.library)
    stateless = dataclasses.replace(model, init_op="", assets=())
    graph_def = pruned(model.graph_def, stateless.outputs())
    return model if any(has_effect(node, effectful) for node in graph_def.node) else stateless.with_graph(graph_def)


def _without_idle_init(model: Model) -> Model:
    """Drop an init op that has nothing left to do."""
    effectful = effectful_functions(model.graph_def.library)
    needed = pruned(model.graph_def, [model.init_op]).node if model.init_op else []
    if any(has_effect(node, effectful) for node in needed):
        return model
    idle = dataclasses.replace(model, init_op="")
    return idle.with_graph(pruned(model.graph_def, idle.outputs()))


def save_saved_model(model: Model, directory: str) -> None:
    """Write the model as a SavedModel that TensorFlow's loaders and the TFLite converter read.

    Args:
      model: The model.
      directory: A folder that is empty or does not exist.

    Raises:
      InputError: If the graph is larger than a protocol buffer can be.
      OSError: If a file can't be written.
    """
    os.makedirs(directory, exist_ok=True)
    for asset in model.assets:
        copy = os.path.join(directory, constants.ASSETS_DIRECTORY, asset.filename)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copyfile(asset.path, copy)
    saved_model = saved_model_pb2.SavedModel(saved_model_schema_version=constants.SAVED_MODEL_SCHEMA_VERSION)
    saved_model.meta_graphs.append(_meta_graph(model))
    try:
        content = saved_model.SerializeToString(deterministic=True)
    except ValueError as error:  # upb's EncodeError is one
        raise InputError(
            f"the graph is larger than the 2 GiB that {constants.SAVED_MODEL_FILENAME_PB} can hold"
        ) from error
    with open(os.path.join(directory, constants.SAVED_MODEL_FILENAME_PB), "wb") as file:
        file.write(content)


def _meta_graph(model: Model) -> MetaGraphDef:
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=model.graph_def)
    meta_graph.meta_info_def.tags.extend(model.tags)
    meta_graph.meta_info_def.tensorflow_version = tf.version.VERSION
    meta_graph.meta_info_def.tensorflow_git_version = tf.version.GIT_VERSION
    _add_signatures(meta_graph, model.signatures)
    if model.init_op:
        meta_graph.collection_def[constants.MAIN_OP_KEY].node_list.value.append(model.init_op)
    for asset in model.assets:
        _add_asset(meta_graph, asset)
    return meta_graph


def _add_signatures(meta_graph: MetaGraphDef, signatures: Mapping[str, SignatureDef]) -> None:
    for key, signature in signatures.items():
        meta_graph.signature_def[key].CopyFrom(signature)


def _add_asset(meta_graph: MetaGraphDef, asset: Asset) -> None:
    definition = meta_graph_pb2.AssetFileDef(filename=asset.filename)
    definition.tensor_info.name = asset.tensor_name
    meta_graph.asset_file_def.append(definition)
    meta_graph.collection_def[constants.ASSETS_KEY].any_list.value.add().Pack(definition)
