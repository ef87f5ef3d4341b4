"""Count what stays of networks that are shipped to phones in their .tflite: ours beside the stock converter's.

Usage: python -m benchmarks.networks FILE.md [NAME ...]

Each network is built in Keras 3 and Keras 2, with what its input leaves open and without, exported as that Keras does,
and converted twice. Each .tflite is run beside the Keras model.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import pathlib
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import tf_bnfold
from benchmarks.applications import OFFSETS, SCALES, count_affine
from benchmarks.mobile_networks import NETWORKS, Floats, Variant, examples, export, made, variants
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.outcome import Kind, Status

_PACKAGES = ("tensorflow", "keras", "tf_keras", "ai-edge-litert")
_PHASES = ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")

Outputs = Mapping[str, Floats]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A .tflite.

    Attributes:
      scales: Number of MUL and DIV by a constant of more than one element.
      offsets: Number of ADD and SUB of one.
      phases: Number of SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND.
      ops: Number of all ops.
    """

    scales: int
    offsets: int
    phases: int
    ops: int

    @property
    def counts(self) -> str:
        """The counts as cells of a row."""
        return f"{self.scales} / {self.offsets} | {self.phases} | {self.ops}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant, its .tflite by the stock converter and by us.

    Attributes:
      variant: Which it is.
      found: Number of batch norms.
      folded: How many of them are gone, scale and offset.
      stock: The stock converter's.
      ours: Ours.
      error: max|a-b| / max|b| of our outputs beside those of Keras. Where Keras does not compute them, beside those of
        the stock converter's .tflite; where LiteRT does not compute them, those of our SavedModel.
    """

    variant: Variant
    found: int
    folded: int
    stock: Converted
    ours: Converted
    error: float


def measure(variant: Variant, *, verify: bool = False) -> Row:
    """Build, export and convert a variant in both ways, and look at the results.

    Args:
      variant: Which.
      verify: Whether tf_bnfold compares its own results too.
    """
    model = made(variant)
    example = examples(variant.network, 1)
    with tempfile.TemporaryDirectory() as folder:
        saved_model, ours, target = f"{folder}/saved_model", f"{folder}/ours", pathlib.Path(folder, "model.tflite")
        export(variant, model, saved_model)
        stock = _stock(variant, saved_model)
        options = tf_bnfold.Options(
            verify=verify, allow_select_tf_ops=variant.select_tf_ops, allow_custom_ops=variant.network.custom_ops
        )
        report = tf_bnfold.convert(saved_model, target, options)
        tflite = target.read_bytes()
        if variant.select_tf_ops:
            tf_bnfold.fold_saved_model(saved_model, ours, options)
            found = _of_saved_model(ours, example)
        else:
            found = _of_tflite(tflite, example)
    expected = _of_tflite(stock, example) if variant.network.custom_ops else _of_keras(model, example, found)
    norms = report.result.of_kind(Kind.BATCH_NORM)
    folded = sum(norm.status in (Status.UP, Status.DOWN, Status.HALVES) for norm in norms)
    return Row(variant, len(norms), folded, _counted(stock), _counted(tflite), _error(found, expected))


def _stock(variant: Variant, saved_model: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    converter.allow_custom_ops = variant.network.custom_ops
    if variant.select_tf_ops:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        # What lists hold is not known where the batch is free; the converter asks for this then.
        converter._experimental_lower_tensor_list_ops = False
    return bytes(converter.convert())


def _counted(content: bytes) -> Converted:
    ops = op_counts(content)
    return Converted(
        count_affine(content, SCALES),
        count_affine(content, OFFSETS),
        sum(ops.get(op, 0) for op in _PHASES),
        sum(ops.values()),
    )


def _of_tflite(content: bytes, example: Floats) -> Outputs:
    runner = Interpreter(model_content=content).get_signature_runner("serving_default")
    return dict(runner(**{next(iter(runner.get_input_details())): example}))


def _of_saved_model(folder: str, example: Floats) -> Outputs:
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    return {name: value.numpy() for name, value in signature(x=tf.constant(example)).items()}


def _of_keras(model: Any, example: Floats, like: Outputs) -> Outputs:
    """The outputs of a Keras model by the names that they have in what was exported: in order, in either Keras."""
    values = tf.nest.flatten(model(example, training=False))  # a dictionary's are sorted by its keys
    return {name: np.asarray(value) for name, value in zip(sorted(like), values, strict=True)}


def _error(found: Outputs, expected: Outputs) -> float:
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in expected.items()}:
        return np.inf
    pairs = [(found[name].astype(float), value.astype(float)) for name, value in expected.items()]
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs)


def table(rows: Sequence[Row]) -> str:
    """Return the page."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions = {"tf_bnfold": tf_bnfold.__version__, "Python": platform.python_version(), **packages}
    listed = "\n".join(map(_line, rows))
    return f"""# Networks for phones, and what stays in their .tflite

`make networks` writes this page: small networks of the kinds that are shipped to phones, built in Keras 3 and Keras 2
with statistics of random examples, exported and converted by the stock converter and by tf_bnfold. Counted are Mul
(with Div) and Add (with Sub) of a constant of more than one element, which is what a batch norm leaves behind;
SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND; and all ops. "Free" is what the input leaves open. The error is max|a-b| /
max|b| of our outputs beside those of the Keras model, on one random example.

{datetime.date.today().isoformat()}; {", ".join(f"{name} {version}" for name, version in versions.items())}.

| network | Keras | free | batch norms folded | stock: Mul / Add | to and from batch | ops \
| tf_bnfold: Mul / Add | to and from batch | ops | error |
|---|---|---|---|---|---|---|---|---|---|---|
{listed}

What stays:

- The 3-D ResNet keeps an Add for each batch norm: the bias of its convolution, which TFLite does not compute as part of
  a CONV_3D.
- The splice predictor has its batch norms before the ReLU and the convolution. Where the value before one is also added
  to what comes out of the unit, the offset stays as an Add; the scale went through the ReLU into the convolution. Such
  batch norms are not counted as folded.
- The Add of the Conv-BN-LSTM from Keras 2 with a free batch is the LSTM's own bias, in the loop that it is converted
  to. In that of Keras 3 it goes right behind a matrix product, and where nothing is free, that of Keras 2 becomes
  TFLite's own op.
- The Mul and Add of the SSDs are those that compute boxes from what is predicted for each anchor.

The LSTM with a free batch, and the NMS of TensorFlow, are converted with TensorFlow's ops allowed, which LiteRT does
not run here; there, the folded SavedModel is compared. Keras does not compute TFLite_Detection_PostProcess;
there, our .tflite is compared with the stock converter's.
"""


def _line(row: Row) -> str:
    variant = row.variant
    cells = [variant.network.name, "3" if variant.keras == "keras" else "2", variant.free or "nothing"]
    cells += [f"{row.folded} of {row.found}", row.stock.counts, row.ours.counts, f"{row.error:.0e}"]
    return f"| {' | '.join(cells)} |"


def main(file: str, *names: str) -> None:
    """Measure each variant and write the page."""
    rows = []
    for network in NETWORKS:
        for variant in variants(network) if not names or network.name in names else ():
            rows.append(measure(variant))
            print(_line(rows[-1]), flush=True)
    pathlib.Path(file).write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
