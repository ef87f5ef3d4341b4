"""Count what stays of batch norms in the .tflite of keras.applications: ours beside the stock converter's.

Usage: python benchmarks/applications.py FILE.md [NAME ...]

Each model gets random statistics, is exported by Keras and converted twice, to .tflite and to .onnx. What is counted
are the Mul, Div, Add and Sub of a constant of more than one element: those that a batch norm leaves behind. Each result
is run beside the Keras model.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import importlib.metadata
import math
import multiprocessing
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tensorflow as tf
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema

import tf_bnfold

SCALES = (schema.BuiltinOperator.MUL, schema.BuiltinOperator.DIV)
OFFSETS = (schema.BuiltinOperator.ADD, schema.BuiltinOperator.SUB)
ONNX_SCALES, ONNX_OFFSETS = ("Mul", "Div"), ("Add", "Sub", "Sum")
SIZE = 224
_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "tf2onnx", "onnxruntime")

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Application:
    """A model of keras.applications.

    Attributes:
      name: Its name there.
      pre_activation: Whether its batch norms stand before a ReLU and a convolution. They can go through the ReLU only
        with a scale above zero, so gamma is above zero then; else it has both signs.
    """

    name: str
    pre_activation: bool = False


APPLICATIONS = (
    Application("ResNet50V2", pre_activation=True),
    Application("DenseNet121", pre_activation=True),
    Application("NASNetMobile"),
    Application("EfficientNetV2B0"),
    Application("EfficientNetB0"),
    Application("MobileNet"),
    Application("MobileNetV2"),
    Application("MobileNetV3Small"),
    Application("MobileNetV3Large"),
    Application("ResNet50"),
    Application("InceptionV3"),
    Application("Xception"),
)


@dataclasses.dataclass(frozen=True)
class Converted:
    """A .tflite or .onnx.

    Attributes:
      scales: Number of MUL and DIV by a constant of more than one element.
      offsets: Number of ADD and SUB of one.
      ops: Number of all ops.
      error: max|a-b| / max|b| of its output beside that of the Keras model.
    """

    scales: int
    offsets: int
    ops: int
    error: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A model, its .tflite by the stock converter and by us, and its .onnx by tf2onnx alone and by way of us."""

    application: Application
    batch_norms: int
    stock: Converted
    ours: Converted
    stock_onnx: Converted
    our_onnx: Converted


def build(application: Application) -> keras.Model:
    """Return the model with random statistics; without weights to download, and with logits as its output."""
    keras.utils.set_random_seed(0)
    constructor = getattr(keras.applications, application.name)
    model = constructor(weights=None, input_shape=(SIZE, SIZE, 3), classifier_activation=None)
    rng = np.random.default_rng(0)
    for norm in _batch_norms(model):
        channels = norm.moving_mean.shape[0]
        if norm.gamma is not None:
            signs = 1 if application.pre_activation else rng.choice([-1, 1], channels)
            norm.gamma.assign(signs * rng.uniform(0.5, 1.5, channels))
        if norm.beta is not None:
            norm.beta.assign(rng.uniform(-0.5, 0.5, channels))
        norm.moving_mean.assign(rng.uniform(-0.5, 0.5, channels))
        norm.moving_variance.assign(rng.uniform(0.5, 2, channels))
    return model


def _batch_norms(model: keras.Model) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def count_affine(content: bytes, builtins: Sequence[int]) -> int:
    """Count the ops of these types, in all subgraphs of a .tflite, that read a constant of more than one element."""
    return sum(op in builtins and largest > 1 for op, largest in _ops(schema.ModelT.InitFromPackedBuf(content)))


def _ops(model: Any) -> Iterator[tuple[int, int]]:
    """Yield each op's type and the number of elements of its largest constant."""
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            read = [subgraph.tensors[index] for index in op.inputs if index >= 0]
            sizes = [math.prod(t.shape) for t in read if _is_constant(model.buffers[t.buffer])]
            code = model.operatorCodes[op.opcodeIndex]
            # Old files have the code in the deprecated field of one byte, with 0 in the other.
            yield max(code.builtinCode, code.deprecatedBuiltinCode), max(sizes, default=0)


def _is_constant(buffer: Any) -> bool:
    return (buffer.data is not None and len(buffer.data) > 0) or buffer.offset > 0


def predict(content: bytes, image: Floats) -> Floats:
    """Run a .tflite of one input and one output."""
    runner = interpreter.Interpreter(model_content=content)
    runner.allocate_tensors()
    runner.set_tensor(runner.get_input_details()[0]["index"], image)
    runner.invoke()
    output: Floats = runner.get_tensor(runner.get_output_details()[0]["index"])
    return output


def count_affine_onnx(model: onnx.ModelProto, types: Sequence[str]) -> int:
    """Count the ops of these types, in an .onnx without inner graphs, that read a constant of more than one element."""
    constants = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    return sum(
        node.op_type in types and max((constants.get(name, 0) for name in node.input), default=0) > 1
        for node in model.graph.node
    )


def tf2onnx_alone(saved_model: pathlib.Path, file: pathlib.Path) -> None:
    """Convert a SavedModel as tf2onnx's users do, in a process of its own."""
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(saved_model), "--output", str(file)]
    subprocess.run([*command, "--signature_def", "serving_default"], check=True, capture_output=True)


def measure(application: Application) -> Row:
    """Build, export and convert a model in both ways, and look at the results."""
    model = build(application)
    rescales = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    image = np.random.default_rng(1).uniform(0, 255 if rescales else 1, (1, SIZE, SIZE, 3)).astype(np.float32)
    expected = np.asarray(model(image, training=False))

    def error(result: Floats) -> float:
        return float(np.abs(result - expected).max() / np.abs(expected).max())

    def converted(content: bytes) -> Converted:
        ops = sum(1 for _ in _ops(schema.ModelT.InitFromPackedBuf(content)))
        return Converted(
            count_affine(content, SCALES), count_affine(content, OFFSETS), ops, error(predict(content, image))
        )

    def converted_onnx(file: pathlib.Path) -> Converted:
        model = onnx.load(file)
        session = onnxruntime.InferenceSession(file)
        (result,) = session.run(None, {session.get_inputs()[0].name: image})
        scales, offsets = (count_affine_onnx(model, types) for types in (ONNX_SCALES, ONNX_OFFSETS))
        return Converted(scales, offsets, len(model.graph.node), error(result))

    with tempfile.TemporaryDirectory() as folder:
        saved_model, tflite = pathlib.Path(folder, "saved_model"), pathlib.Path(folder, "model.tflite")
        alone, ours = pathlib.Path(folder, "alone.onnx"), pathlib.Path(folder, "model.onnx")
        model.export(saved_model, verbose=False)
        stock = tf.lite.TFLiteConverter.from_saved_model(str(saved_model)).convert()
        tf_bnfold.convert(saved_model, tflite, tf_bnfold.Options(verify=False))
        tf_bnfold.convert(saved_model, ours, tf_bnfold.Options(verify=False))
        tf2onnx_alone(saved_model, alone)
        return Row(
            application,
            len(_batch_norms(model)),
            converted(stock),
            converted(tflite.read_bytes()),
            converted_onnx(alone),
            converted_onnx(ours),
        )


def table(rows: Sequence[Row]) -> str:
    """Return the page."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions = {"tf_bnfold": tf_bnfold.__version__, "Python": platform.python_version(), **packages}
    positive = " and ".join(row.application.name for row in rows if row.application.pre_activation)
    listed = "\n".join(map(_line, rows))
    return f"""# What stays in the .tflite and the .onnx

`make applications` writes this page: models of keras.applications with random statistics, exported by `model.export`
and converted by the stock converter and by tf_bnfold; and through tf2onnx, by itself and behind tf_bnfold. Counted are
the ops that a batch norm may leave behind: Mul (with Div) and Add (with Sub) of a constant of more than one element.
The error is max|a-b| / max|b| of the logits beside those of the Keras model, on one random image.

{datetime.date.today().isoformat()}; {", ".join(f"{name} {version}" for name, version in versions.items())}.

| model | batch norms | stock: Mul / Add | ops | error | tf_bnfold: Mul / Add | ops | error \
| tf2onnx: Mul / Add | ops | error | tf_bnfold, tf2onnx: Mul / Add | ops | error |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
{listed}

Gamma is above zero in {positive or "none"}, since only such a scale passes the ReLU between batch norm and
convolution, and of both signs in the others. An Add that stays is an offset that can't pass what is behind it, a ReLU
or zero padding, and that no branch before it takes.
"""


def _line(row: Row) -> str:
    cells = [row.application.name, str(row.batch_norms)]
    for side in (row.stock, row.ours, row.stock_onnx, row.our_onnx):
        cells += [f"{side.scales} / {side.offsets}", str(side.ops), f"{side.error:.0e}"]
    return f"| {' | '.join(cells)} |"


def main(file: str, *names: str) -> None:
    """Measure each model in a process of its own, so that its memory is given back, and write the page."""
    rows = []
    for application in APPLICATIONS:
        if names and application.name not in names:
            continue
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(measure, application).result())
        print(_line(rows[-1]), flush=True)
    pathlib.Path(file).write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
