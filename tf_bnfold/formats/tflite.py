"""Hand a Model to the stock TFLite converter."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tf_bnfold.errors import ConverterError
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.saved_model import save_saved_model
from tf_bnfold.formats.share import KERAS3_DOUBLE

_LIST_LOWERING = "Lowering tensor list ops"


def convert_to_tflite(model: Model, *, work_dir: str, allow_select_tf_ops: bool = False) -> bytes:
    """Convert the model with the stock converter, by way of a SavedModel, which keeps signature keys and names.

    Args:
      model: The model.
      work_dir: A folder for the SavedModel that the converter reads; the caller removes it.
      allow_select_tf_ops: Let the result use TensorFlow ops beside the built-in ones.

    Returns:
      The .tflite flatbuffer.

    Raises:
      ConverterError: If the converter refuses; the message names the ops and the way out.

    Source: https://ai.google.dev/edge/litert/conversion/tensorflow/convert_tf
    """
    directory = os.path.join(work_dir, "saved_model")
    save_saved_model(model, directory)
    keys = signatures_to_convert(model)
    try:
        return _converted(directory, keys, model.tags, allow_select_tf_ops=allow_select_tf_ops, lower_lists=True)
    except Exception as error:  # ConverterError, ValueError, RuntimeError and others
        if not (allow_select_tf_ops and _LIST_LOWERING in str(error)):
            raise ConverterError(_one_line(error, allow_select_tf_ops=allow_select_tf_ops)) from error
    try:
        return _converted(directory, keys, model.tags, allow_select_tf_ops=True, lower_lists=False)
    except Exception as error:
        raise ConverterError(_one_line(error, allow_select_tf_ops=True)) from error


def signatures_to_convert(model: Model) -> tuple[str, ...]:
    """Return the keys that the .tflite gets: all, without the `serve` of Keras 3 where it equals `serving_default`.

    The stock converter leaves `serve` out of a Keras 3 export too, as it would be the same graph once more.
    """
    double, default = (model.signatures.get(key) for key in KERAS3_DOUBLE)
    is_double = double is not None and default is not None and _tensors(double) == _tensors(default)
    return tuple(key for key in sorted(model.signatures) if not (is_double and key == KERAS3_DOUBLE[0]))


def _tensors(signature: meta_graph_pb2.SignatureDef) -> list[dict[str, bytes]]:
    return [
        {name: info.SerializeToString(deterministic=True) for name, info in infos.items()}
        for infos in (signature.inputs, signature.outputs)
    ]


def _converted(
    directory: str, keys: Sequence[str], tags: Sequence[str], *, allow_select_tf_ops: bool, lower_lists: bool
) -> bytes:
    with quiet():
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(keys), tags=set(tags))
        if allow_select_tf_ops:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
            converter._experimental_lower_tensor_list_ops = lower_lists  # the only switch there is
        return bytes(converter.convert())


def _one_line(error: Exception, *, allow_select_tf_ops: bool) -> str:
    """Say in one line which ops the converter refused and what the user can do; MLIR says it in hundreds."""
    message = str(error)
    select, custom = (_refused_ops(message, f"ERROR_NEEDS_{kind}_OPS") for kind in ("FLEX", "CUSTOM"))
    if custom:
        return (
            f"the TFLite converter has no op for {custom}, neither built-in nor among TensorFlow's select "
            "ops; take it out of the model, or write the folded graph with --output_saved_model and convert it yourself"
        )
    if select:
        return (
            f"the TFLite converter has no built-in op for {select}; "
            "with --allow_select_tf_ops the .tflite may use TensorFlow's"
        )
    cause = re.search(r"error: (?:loc\(.*\): )?(.*)", message)
    what = cause[1] if cause else message.strip().partition("\n")[0]
    located = re.search(r'error: loc\(.*?fused\["(\w+):", "([^"@]+)', message)
    where = f" at {located[1]} {located[2]}" if located else ""
    if _LIST_LOWERING in message:
        more = "" if allow_select_tf_ops else ", or allow TensorFlow's ops with --allow_select_tf_ops"
        return (
            f"the TFLite converter needs the shape of the list's elements{where}, which the graph leaves open: "
            f"export the model with a fixed batch size{more}"
        )
    return f"the TFLite converter refused the graph{where}: {what.strip() or type(error).__name__}"


def _refused_ops(message: str, code: str) -> str:
    """List the ops that the converter refused for this reason, each with its first node."""
    nodes: dict[str, str] = {}
    for line in re.findall(rf"(.*)Error code: {code}", message):
        located = re.search(r'"(\w+):", "([^"@]+)', line)
        if located:
            nodes.setdefault(located[1], located[2])
    return ", ".join(f"{op} ({node})" for op, node in sorted(nodes.items()))
