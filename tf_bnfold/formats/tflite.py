"""Hand a Model to the stock TFLite converter."""

from __future__ import annotations

import os
import re

from tensorflow.core.protobuf import meta_graph_pb2

from tf_bnfold.errors import ConverterError, FoldError
from tf_bnfold.flatbuffer import in_order
from tf_bnfold.formats.convertible import convertible
from tf_bnfold.formats.custom_ops import has_kernel
from tf_bnfold.formats.frozen_converter import frozen_converter
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.quantisation import FLOAT, Quantisation, configure
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.saved_model import save_saved_model
from tf_bnfold.formats.share import KERAS3_DOUBLE
from tf_bnfold.formats.widen import other_dtype

_LIST_LOWERING = "Lowering tensor list ops"


# Ops that TFLite has in float32 and integers only.
_LINEAR = frozenset({
    "Conv2D", "Conv2DBackpropInput", "Conv3D", "Conv3DBackpropInputV2", "DepthwiseConv2dNative", "MatMul",
    "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum",
})  # fmt: skip


def convert_to_tflite(
    model: Model,
    *,
    work_dir: str,
    allow_select_tf_ops: bool = False,
    allow_custom_ops: bool = False,
    quantisation: Quantisation = FLOAT,
) -> bytes:
    """Convert the model with the stock converter, by way of a SavedModel, which keeps signature keys and names.

    Args:
      model: The model.
      work_dir: A folder for the SavedModel that the converter reads; the caller removes it.
      allow_select_tf_ops: Let the result use TensorFlow ops beside the built-in ones.
      allow_custom_ops: Let ops that TFLite lacks be custom ops of the result.
      quantisation: How to quantise it.

    Returns:
      The .tflite flatbuffer.

    Raises:
      FlagError: If the model can't be calibrated.
      InputError: If the data to calibrate on can't be used.
      ConverterError: If the converter refuses; the message names the ops and the way out.

    Source: https://ai.google.dev/edge/litert/conversion/tensorflow/convert_tf
    """
    for op in sorted(model.custom_ops):
        if not has_kernel(op):
            raise ConverterError(
                f"custom op {op}: the TFLite converter got to know it in an earlier conversion of this process, and "
                "can not load a graph with it any more; convert this model first, or in a process of its own"
            )
    if not allow_select_tf_ops:
        _refuse_other_dtypes(model)
    directory = os.path.join(work_dir, "saved_model")
    save_saved_model(model.with_graph(convertible(model.graph_def)), directory)

    keys = signatures_to_convert(model)

    def convert(*, lower_lists: bool) -> bytes:
        with quiet():
            converter = frozen_converter(directory, signature_keys=keys, tags=model.tags)
            converter.allow_custom_ops = allow_custom_ops
            configure(converter, quantisation, model, keys, allow_select_tf_ops=allow_select_tf_ops)
            if allow_select_tf_ops:
                converter._experimental_lower_tensor_list_ops = lower_lists  # the only switch there is
            return _ordered(bytes(converter.convert()), model)

    try:
        return convert(lower_lists=True)
    except FoldError:
        raise
    except Exception as error:  # ConverterError, ValueError, RuntimeError and others
        if not (allow_select_tf_ops and _LIST_LOWERING in str(error)):
            raise ConverterError(_one_line(error, model, allow_select_tf_ops=allow_select_tf_ops)) from error
    try:
        return convert(lower_lists=False)
    except Exception as error:
        raise ConverterError(_one_line(error, model, allow_select_tf_ops=True)) from error


def _ordered(content: bytes, model: Model) -> bytes:
    for key, order in model.order.items():
        content = in_order(content, key, order.inputs, order.outputs)
    return content


def _refuse_other_dtypes(model: Model) -> None:
    bodies = (function.node_def for function in model.graph_def.library.function)
    for nodes in (model.graph_def.node, *bodies):
        for node in nodes:
            if node.op in _LINEAR and other_dtype(node):
                raise ConverterError(
                    f"TFLite has no {other_dtype(node)} {node.op} ({node.name}); "
                    "with --widen_to_float32 the .tflite computes it in float32"
                )


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


def _one_line(error: Exception, model: Model, *, allow_select_tf_ops: bool) -> str:
    """Say in one line which ops the converter refused and what the user can do; MLIR says it in hundreds."""
    message = str(error)
    select, custom = (_refused_ops(message, f"ERROR_NEEDS_{kind}_OPS") for kind in ("FLEX", "CUSTOM"))
    dtypes = {node.name: other_dtype(node) for node in model.graph_def.node}
    other = next((dtypes[name] for name in re.findall(r"\((.*?)\)", f"{custom} {select}") if dtypes.get(name)), "")
    if other and not allow_select_tf_ops:
        return (
            f"the TFLite converter has no op for {custom or select} in {other}; "
            "with --widen_to_float32 the .tflite computes in float32"
        )
    if custom:
        return (
            f"the TFLite converter has no op for {custom}, neither built-in nor among TensorFlow's select ops; "
            "cut it off with --input_nodes or --output_nodes, or leave it to the interpreter with --allow_custom_ops"
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
