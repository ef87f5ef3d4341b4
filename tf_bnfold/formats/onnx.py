"""Hand a Model to tf2onnx."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping

import onnx
from tensorflow.core.framework import node_def_pb2

from tf_bnfold.errors import ConverterError, FlagError, VerificationError
from tf_bnfold.formats.graph_file import write_graph_def
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import GraphDef, Model, Order, SignatureDef, tensor_names
from tf_bnfold.formats.onnx_ready import onnx_ready
from tf_bnfold.formats.tensors import short_name, tensor_name, unused
from tf_bnfold.formats.tflite import signatures_to_convert

GRAPH, TASK, MODEL, REFUSAL = "graph.pb", "task.json", "model.onnx", "refusal.txt"  # what passes between processes
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}


@dataclasses.dataclass(frozen=True)
class Task:
    """What to convert, beside the graph.

    Attributes:
      inputs: Name in the .onnx by tensor, in order.
      outputs: Name in the .onnx by tensor, in order.
      opset: Version of ONNX's operators.
      init_op: Node that initialises tables, "" for none.
      assets: Path by the tensor that is fed with it.
      shapes: Shape by the name of an output, -1 for an unknown dimension; none of unknown rank.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    opset: int
    init_op: str = ""
    assets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shapes: Mapping[str, list[int]] = dataclasses.field(default_factory=dict)


def signature_for_onnx(model: Model) -> str:
    """Return the key of the one signature that an .onnx can hold.

    Raises:
      FlagError: If the model has several that differ.
    """
    keys = signatures_to_convert(model)
    if len(keys) != 1:
        raise FlagError(
            f"--onnx: an .onnx holds one signature, the model has {', '.join(keys)}; --signature_keys chooses"
        )
    return keys[0]


def convert_to_onnx(model: Model, key: str, *, work_dir: str, opset: int) -> bytes:
    """Convert one signature of a model with tf2onnx, in a process of its own.

    Inputs and outputs have the names of the signature, and the order that the user gave them, else that of these names
    (`a_2` before `a_10`): a SignatureDef has none. The same model gives the same bytes.

    Args:
      model: The model.
      key: Which signature.
      work_dir: An empty folder; the caller removes it.
      opset: Version of ONNX's operators.

    Returns:
      The serialised ModelProto.

    Raises:
      ConverterError: If tf2onnx refuses the model; the message names the ops.
      VerificationError: If what it gives is no valid ONNX.

    Source: https://github.com/onnx/tensorflow-onnx
    """
    signature = model.signatures[key]
    by_name = Order(*(tuple(sorted(infos, key=_natural)) for infos in (signature.inputs, signature.outputs)))
    graph_def, inputs, outputs = _named(onnx_ready(model.graph_def), signature, model.order.get(key, by_name))
    write_graph_def(graph_def, os.path.join(work_dir, GRAPH))
    assets = {asset.tensor_name: asset.path for asset in model.assets}
    task = Task(inputs, outputs, opset, model.init_op, assets, _shapes(signature))
    with open(os.path.join(work_dir, TASK), "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(task), file)
    content = _run(work_dir)
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise VerificationError(f"tf2onnx made an invalid model, so nothing is written: {one_line(error)}") from error
    return content


def op_counts(content: bytes) -> collections.Counter[str]:
    """Count the ops of an .onnx by type, in all its graphs."""
    counts: collections.Counter[str] = collections.Counter()
    pending = [onnx.ModelProto.FromString(content).graph]
    while pending:
        for node in pending.pop().node:
            counts[node.op_type] += 1
            for attribute in node.attribute:
                pending += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return counts


def _named(
    graph_def: GraphDef, signature: SignatureDef, order: Order
) -> tuple[GraphDef, dict[str, str], dict[str, str]]:
    """Give each output a node of its own, so that it can be renamed; return inputs and outputs by tensor."""
    for name, info in (*signature.inputs.items(), *signature.outputs.items()):
        if info.WhichOneof("encoding") != "name":
            raise ConverterError(f"{name} is a sparse or composite tensor, which ONNX does not have")
    for name, info in signature.inputs.items():
        if info.tensor_shape.unknown_rank:
            raise ConverterError(
                f"ONNX needs the rank of input {name}, which the model leaves open; give --input_shapes"
            )
    both = sorted(signature.inputs.keys() & signature.outputs.keys())
    if both:
        raise ConverterError(f"{both[0]} is the name of an input and of an output, which ONNX can not tell apart")
    taken = {node.name for node in graph_def.node}
    outputs = {}
    for name in order.outputs:
        info = signature.outputs[name]
        node = node_def_pb2.NodeDef(name=unused("output", taken), op="Identity", input=[short_name(info.name)])
        node.attr["T"].type = info.dtype
        graph_def.node.append(node)
        outputs[tensor_name(node.name)] = name
    inputs = {next(tensor_names(signature.inputs[name])): name for name in order.inputs}
    return graph_def, inputs, outputs


def _shapes(signature: SignatureDef) -> dict[str, list[int]]:
    return {
        name: [dim.size for dim in info.tensor_shape.dim]
        for name, info in sorted(signature.outputs.items())
        if not info.tensor_shape.unknown_rank
    }


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers in names by their value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _run(work_dir: str) -> bytes:
    # Not `-m`: that would look for modules in the working folder first, where a user may have an onnx.py.
    call = f"from tf_bnfold.formats.onnx_child import main; main({work_dir!r}, {os.getpid()})"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {call}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **_ENVIRONMENT},
        check=False,
    )
    sys.stderr.write(done.stderr[-4096:] if done.returncode else "")  # for --verbosity=1
    refusal, model = (os.path.join(work_dir, name) for name in (REFUSAL, MODEL))
    if os.path.exists(refusal):
        with open(refusal, encoding="utf-8") as file:
            raise ConverterError(file.read())
    if not os.path.exists(model):
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise ConverterError(f"tf2onnx failed: {last}")
    with open(model, "rb") as file:
        return file.read()
