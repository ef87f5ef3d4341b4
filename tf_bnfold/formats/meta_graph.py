"""Read what a SavedModel says about itself: MetaGraphs, tags, signatures, assets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow.python.saved_model import constants, loader_impl

from tf_bnfold.errors import InputError
from tf_bnfold.formats.model import Asset, SignatureDef, node_name, tensor_names

MetaGraphDef = Any  # tensorflow.core.protobuf.meta_graph_pb2.MetaGraphDef

_AROUND_THE_MESSAGE = (
    "Graph execution error",
    "Detected at node",
    "<stack traces unavailable>",
    "Node:",
    "Restoring from checkpoint failed",
    "Original error",
)
_TIMED_OUT = "Timed out waiting for notification"
_NOT_FOR_USERS = (constants.INIT_OP_SIGNATURE_KEY, constants.TRAIN_OP_SIGNATURE_KEY)


def read_meta_graph(path: str, tags: Sequence[str]) -> MetaGraphDef:
    """Read the MetaGraph with exactly these tags from a SavedModel folder.

    Raises:
      InputError: If there is no such folder, file or MetaGraph, or the file can't be parsed.
    """
    if not os.path.isdir(path):
        raise InputError(f"{path} is not a folder; --saved_model wants the folder that holds saved_model.pb")
    try:
        saved_model = loader_impl.parse_saved_model(path)
    except OSError as error:
        if loader_impl.contains_saved_model(path):
            raise InputError(f"saved_model.pb in {path} is damaged: it can not be parsed") from error
        raise InputError(f"{path} holds no saved_model.pb, so it is not a SavedModel") from error
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    there = sorted(",".join(sorted(each.meta_info_def.tags)) or "(none)" for each in saved_model.meta_graphs)
    if not there:
        raise InputError(f"saved_model.pb in {path} is empty: it holds no MetaGraph")
    raise InputError(f"{path} has no MetaGraph with the tags {','.join(tags)}; --tags can be: {' or '.join(there)}")


def choose_signatures(meta_graph: MetaGraphDef, keys: Sequence[str], path: str) -> Mapping[str, SignatureDef]:
    """Return the signatures with these keys, all without keys; those that only loading uses are never among them.

    Raises:
      InputError: If there is none, or none with one of the keys.
    """
    there = {
        key: meta_graph.signature_def[key] for key in sorted(meta_graph.signature_def) if key not in _NOT_FOR_USERS
    }
    if not there:
        raise InputError(f"{path} has no signature, so its inputs and outputs are not known; export it with signatures")
    for key in keys:
        if key not in there:
            raise InputError(f"{path} has no signature {key}; --signature_keys can be: {', '.join(there)}")
    names = (name for signature in there.values() for name in (*signature.inputs, *signature.outputs))
    for name in (*there, *names):
        if not name.isprintable():
            raise InputError(f"{path} is damaged: a signature has the name {name!r}")
    nodes = {node.name for node in meta_graph.graph_def.node}
    chosen = {key: signature for key, signature in there.items() if not keys or key in keys}
    for key, signature in chosen.items():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            for name in tensor_names(info):
                if node_name(name) not in nodes:
                    raise InputError(f"signature {key} of {path} names {name}, which its graph does not have")
    return chosen


def initializer(meta_graph: MetaGraphDef) -> str:
    """Name the node that a loader runs once, "" if there is none."""
    key = constants.INIT_OP_SIGNATURE_KEY
    if key in meta_graph.signature_def and key in meta_graph.signature_def[key].outputs:
        return node_name(meta_graph.signature_def[key].outputs[key].name)
    for collection in (constants.MAIN_OP_KEY, constants.LEGACY_INIT_OP_KEY):
        if collection in meta_graph.collection_def:
            for name in meta_graph.collection_def[collection].node_list.value:
                return node_name(name)
    return ""


def assets_of(meta_graph: MetaGraphDef, path: str) -> tuple[Asset, ...]:
    """List the files that the graph reads.

    Raises:
      InputError: If one is missing.
    """
    definitions = list(meta_graph.asset_file_def)
    if not definitions and constants.ASSETS_KEY in meta_graph.collection_def:
        for packed in meta_graph.collection_def[constants.ASSETS_KEY].any_list.value:
            definition = meta_graph_pb2.AssetFileDef()
            packed.Unpack(definition)
            definitions.append(definition)
    assets = tuple(
        Asset(
            definition.tensor_info.name,
            definition.filename,
            os.path.join(path, constants.ASSETS_DIRECTORY, definition.filename),
        )
        for definition in definitions
    )
    for asset in assets:
        inside = os.path.normpath(asset.filename)
        if os.path.isabs(inside) or inside.split(os.sep)[0] in ("..", "."):
            raise InputError(f"{path} is damaged: its asset {asset.filename!r} is no file in its assets/")
        if not os.path.isfile(asset.path):
            raise InputError(f"asset {asset.filename} of {path} is missing: the graph reads {asset.path}")
    return assets


def refuse_unknown_ops(graph_def: Any, path: str) -> None:
    """Raise if the graph has an op that this TensorFlow does not know.

    Raises:
      InputError: It names op and node.
    """
    functions = {function.signature.name for function in graph_def.library.function}
    bodies = (function.node_def for function in graph_def.library.function)
    for nodes in (graph_def.node, *bodies):
        for node in nodes:
            if node.op not in functions and op_def_registry.get(node.op) is None:
                raise InputError(
                    f"{path} has an op that this TensorFlow does not know: {node.op} at {node.name}; "
                    "import the package that registers it, or leave it to the interpreter with --allow_custom_ops"
                )


def one_line(error: BaseException) -> str:
    """Return the line of an error's message that says what is wrong, out of all that TensorFlow puts around it."""
    lines = [line.strip() for line in str(getattr(error, "message", "") or error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_AROUND_THE_MESSAGE)]
    if not telling:
        return type(error).__name__
    return "it did not end in time" if telling[0] == _TIMED_OUT else telling[0].rstrip(" .:")
