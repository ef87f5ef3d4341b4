"""Read and write files that hold one GraphDef, and know how large a GraphDef may be."""

from __future__ import annotations

import os

from google.protobuf import message, text_format
from tensorflow.core.framework import graph_pb2

from tf_bnfold.errors import InputError
from tf_bnfold.formats.model import GraphDef

MOST_BYTES = 2**31 - 1  # that a protocol buffer can hold
TEXT_SUFFIX = ".pbtxt"

# What other files have among their first bytes.
_HEAD = 64
_MARKS = {
    "a .tflite, which is a result of conversion": b"TFL3",
    "a zip archive, as .keras files are": b"PK\x03\x04",
    "an HDF5 file": b"\x89HDF",
    "a picture": b"\x89PNG",
}
_SAVED_MODEL = "; a SavedModel is given by its folder, with --saved_model"

_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})


def read_graph_def(path: str) -> GraphDef:
    """Read a frozen GraphDef, binary or text; the content decides.

    Args:
      path: The file.

    Returns:
      The GraphDef, with one node at least and no variables.

    Raises:
      InputError: If the file can't be used; the message says what it holds.
    """
    try:
        if os.path.getsize(path) > MOST_BYTES and not path.endswith(TEXT_SUFFIX):
            raise InputError(_too_large(path))
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path} can not be read: {error.strerror or error}") from error
    graph_def = _parsed(content, path)
    if not graph_def.node:
        raise InputError(f"{path} holds no graph{_SAVED_MODEL}")
    for node in graph_def.node:
        if node.op in _VARIABLES:
            raise InputError(
                f"{path} is not frozen: {node.op} {node.name} is a variable, whose value is elsewhere; "
                "give the SavedModel, or freeze the graph first"
            )
    byte_size(graph_def, path)
    return graph_def


def _parsed(content: bytes, path: str) -> GraphDef:
    """Parse the binary form, or else the text form; text is no valid binary, whatever it begins with."""
    try:
        graph_def = graph_pb2.GraphDef.FromString(content)
        if graph_def.node:
            return graph_def
    except message.DecodeError:
        graph_def = None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if any(ord(c) < ord(" ") and not c.isspace() for c in text):  # no text
        if graph_def is not None:
            return graph_def
        kind = next((what for what, mark in _MARKS.items() if mark in content[:_HEAD]), "")
        hint = f"; it is {kind}" if kind else _SAVED_MODEL if os.path.basename(path) == "saved_model.pb" else ""
        raise InputError(f"{path} is no GraphDef, or is damaged: it can not be parsed{hint}")
    try:
        return text_format.Parse(text, graph_pb2.GraphDef())
    except (text_format.ParseError, RecursionError) as error:
        raise InputError(f"{path} is no GraphDef, neither binary nor text: {str(error).splitlines()[0]}") from error


def write_graph_def(graph_def: GraphDef, path: str) -> None:
    """Write a GraphDef, as text where the suffix is .pbtxt, else binary; the same graph gives the same bytes.

    Raises:
      InputError: If the graph is larger than a protocol buffer can be.
      OSError: If the file can't be written.
    """
    if path.endswith(TEXT_SUFFIX):
        content = text_format.MessageToString(graph_def).encode("utf-8")
    else:
        byte_size(graph_def, os.path.basename(path))
        content = graph_def.SerializeToString(deterministic=True)
    with open(path, "wb") as file:
        file.write(content)


def byte_size(graph_def: GraphDef, what: str = "the graph") -> int:
    """Return the size of a GraphDef's serialised form, counted node by node: at once would copy all weights.

    Raises:
      InputError: If it is larger than a protocol buffer can be, which is where TensorFlow and its converters give up.
    """
    try:
        size: int = _rest(graph_def).ByteSize() + sum(_field_size(node.ByteSize()) for node in graph_def.node)
    except (message.EncodeError, ValueError) as error:
        raise InputError(_too_large(what)) from error
    if size > MOST_BYTES:
        raise InputError(_too_large(what))
    return size


def _rest(graph_def: GraphDef) -> GraphDef:
    return graph_pb2.GraphDef(**{field.name: each for field, each in graph_def.ListFields() if field.name != "node"})


def _field_size(size: int) -> int:
    """Bytes of a message in a repeated field: a tag, its length in groups of seven bits, and itself."""
    return 1 + max(1, -(-size.bit_length() // 7)) + size


def _too_large(what: str) -> str:
    return f"{what} is larger than the 2 GiB that a GraphDef can hold; split the model, or store weights in fewer bytes"
