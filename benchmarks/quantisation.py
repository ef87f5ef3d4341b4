"""Size, error and SQNR of each way to quantise, with the fold and without, for trained models.

Usage: python benchmarks/quantisation.py MODELS FILE.md

MODELS is the folder that holds the models. Without the fold means: the same graph by the same converter, whose own
folding is all there is then. Both are compared with the float graph before folding. There are no recordings and
photographs here: inputs are made up, as like them as a few lines can make them; half of them are calibrated on, and
the other half is compared on.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

import tf_bnfold
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.load import load_model
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.quantisation import Quantisation
from tf_bnfold.formats.representative import open_source
from tf_bnfold.formats.tflite import convert_to_tflite
from tf_bnfold.options import Options, Request
from tf_bnfold.quantisation import TYPES
from tf_bnfold.ranges import sinks_of
from tf_bnfold.verify import NotVerified, make_samples, verify_quantised

COUNT = 256
RATE = 16_000

Floats = npt.NDArray[np.float32]


def sounds(random: np.random.Generator) -> Floats:
    """Return a second of sound each, float32 [COUNT, RATE]: three tones that swell and fade, and noise."""
    time = np.arange(RATE) / RATE
    found = np.zeros((COUNT, RATE))
    for _ in range(3):
        pitch, start, length, loudness = (
            random.uniform(low, high, (COUNT, 1)) for low, high in ((100, 4000), (0, 0.7), (0.05, 0.3), (0.02, 0.5))
        )
        found += loudness * np.sin(2 * np.pi * pitch * time) * np.exp(-(((time - start) / length) ** 2))
    found += random.uniform(0.001, 0.05, (COUNT, 1)) * random.standard_normal((COUNT, RATE))
    return np.clip(found, -1, 1).astype(np.float32)


def mfccs(random: np.random.Generator) -> Floats:
    """Return ten MFCCs of 49 frames each, as the front end of the keyword models makes them."""
    spectrograms = [
        tf.raw_ops.AudioSpectrogram(input=sound[:, None], window_size=640, stride=320, magnitude_squared=True)
        for sound in sounds(random)
    ]
    found = tf.raw_ops.Mfcc(
        spectrogram=tf.concat(spectrograms, 0), sample_rate=RATE, dct_coefficient_count=10, lower_frequency_limit=20.0
    )
    return np.asarray(found, np.float32)


def log_mels(random: np.random.Generator) -> Floats:
    """Return five frames of 128 mel energies in decibels, as the detector of anomalies takes them."""
    power = tf.abs(tf.signal.stft(sounds(random), 1024, 512, 1024)) ** 2
    mel = power[:, 10:15] @ tf.signal.linear_to_mel_weight_matrix(128, 513, RATE, 0.0, RATE / 2)
    return np.asarray(10 * np.log10(np.maximum(mel, 1e-10)), np.float32).reshape(COUNT, 640)


def pictures(random: np.random.Generator) -> Floats:
    """Return pictures of pixels from 0 to 255 that differ in large things and in small."""
    found = np.zeros((COUNT, 32, 32, 3))
    for cells in (1, 2, 4, 8, 16, 32):
        place = np.arange(32) * cells // 32
        found += random.normal(0, 30, (COUNT, cells, cells, 3))[:, place][:, :, place]
    return np.clip(128 + found, 0, 255).astype(np.float32)


def from_keras(file: pathlib.Path, folder: str) -> Request:
    """Export a Keras file."""
    keras.models.load_model(file, compile=False).export(folder, verbose=False)
    return Request(folder)


def from_saved_model(file: pathlib.Path, _: str) -> Request:
    """Read a SavedModel."""
    return Request(str(file))


def from_frozen_graph(file: pathlib.Path, _: str) -> Request:
    """Read the frozen graph behind its front end."""
    return Request(
        frozen_graph=str(file),
        options=Options(input_nodes=("Mfcc",), output_nodes=("labels_softmax",), input_shapes={"Mfcc": (1, 49, 10)}),
    )


def pre_activation(_: pathlib.Path, folder: str) -> Request:
    """Make a residual net with batch norms before ReLU and convolution: random weights, real statistics.

    What a batch norm reads is read by the shortcut too, so that it can only go forward: its scale through the ReLU
    into the convolution, and its offset not at all. The stock converter leaves both.
    """
    keras.utils.set_random_seed(0)
    random, layers = np.random.default_rng(0), keras.layers
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same")(layers.Rescaling(1 / 127.5, -1)(inputs))
    for width in (16, 32, 64):
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.0)(x))
        y = layers.Conv2D(width, 3, strides=2, padding="same", kernel_initializer="he_normal")(y)
        x = layers.Add()([layers.Conv2D(width, 1, strides=2, use_bias=False)(x), y])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(momentum=0.0)(x)))
    model = keras.Model(inputs, layers.Dense(10)(x))
    for norm in (layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)):
        norm.gamma.assign(random.uniform(0.3, 2, norm.gamma.shape))
        norm.beta.assign(random.normal(0, 0.5, norm.beta.shape))
    model(pictures(random), training=True)
    model.export(folder, verbose=False)
    return Request(folder)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model.

    Attributes:
      name: File or folder.
      load: Says how to read it; it may write a SavedModel into a folder.
      inputs: Makes inputs, first axis COUNT.
      classes: Whether its output is classes.
      trained: Whether it is a real model, and not made here.
    """

    name: str
    load: Callable[[pathlib.Path, str], Request]
    inputs: Callable[[np.random.Generator], Floats]
    classes: bool = True
    trained: bool = True


CASES = (
    Case("kws_ds_cnn", from_saved_model, mfccs),
    Case("arm_ds_cnn_s.pb", from_frozen_graph, mfccs),
    Case("resnet8_cifar10.h5", from_keras, pictures),
    Case("ad01_autoencoder.h5", from_keras, log_mels, classes=False),
    Case("pre-activation", pre_activation, pictures, trained=False),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One .tflite, beside the float graph before folding."""

    bytes: int
    ops: int
    error: float
    sqnr: float | None
    top1: float | None


def measure(model: Model, reference: Model, mode: str, files: Sequence[str]) -> Row:
    """Convert a model in one way, and compare it with the float graph on inputs that it was not calibrated on."""
    calibrated, compared = map(open_source, files)
    with tempfile.TemporaryDirectory() as folder:
        content = convert_to_tflite(model, work_dir=folder, quantisation=Quantisation(mode, source=calibrated))
    samples = make_samples(reference, compared)
    finding = verify_quantised(reference, content, samples, floor=0.0, compared=mode)
    if isinstance(finding, NotVerified):
        raise RuntimeError(finding.reason)
    (quality,) = finding.outputs.values()
    assert quality.error is not None
    return Row(len(content), op_counts(content).total(), quality.error, quality.sqnr, quality.top1)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
      case: The model.
      rows: Without the fold and with it, by mode.
      spread: The largest ratio of the largest to the median channel range of weights, before the fold and after it.
      sinks: Number of ops that took a batch norm.
    """

    case: Case
    rows: Mapping[str, tuple[Row, Row]]
    spread: tuple[float, float]
    sinks: int


def measured(case: Case, models: pathlib.Path) -> Measured:
    """Convert a model in all ways."""
    with tempfile.TemporaryDirectory() as folder:
        frozen = load_model(case.load(models / case.name, f"{folder}/saved_model"))
        key = "serving_default" if "serving_default" in frozen.signatures else next(iter(frozen.signatures))
        frozen = dataclasses.replace(frozen, signatures={key: frozen.signatures[key]})
        folding = fold_graph(frozen.graph_def, frozen.outputs(), frozen.inputs())
        folded = frozen.with_graph(folding.graph_def)
        ((name, info),) = frozen.signatures[key].inputs.items()
        values = case.inputs(np.random.default_rng(0)).reshape(-1, *[dim.size for dim in info.tensor_shape.dim][1:])
        files = [f"{folder}/calibrated.npz", f"{folder}/compared.npz"]
        for file, part in zip(files, (values[::2], values[1::2]), strict=True):
            np.savez(file, allow_pickle=False, **{name: part})
        rows = {}
        for mode in TYPES:
            rows[mode] = (measure(frozen, frozen, mode, files), measure(folded, frozen, mode, files))
            print(case.name, _line(mode, rows[mode], classes=case.classes), flush=True)
    sinks = sinks_of(folding.ranges)
    spread = (max(sink.before for sink in sinks), max(sink.after for sink in sinks))
    return Measured(case, rows, spread, len(sinks))


def section(found: Measured) -> str:
    """Return the section of a model."""
    lines = "\n".join(_line(mode, rows, classes=found.case.classes) for mode, rows in found.rows.items())
    before, after = found.spread
    return f"""## {found.case.name}

| quantised | without: bytes | ops | error | SQNR | top-1 | with: bytes | ops | error | SQNR | top-1 |
|---|---|---|---|---|---|---|---|---|---|---|
{lines}

Largest channel range of the weights over the median one, at most: {before:.3g} before the fold and {after:.3g} after
it, of {found.sinks} ops that took a batch norm.
"""


def verdict(all_found: Sequence[Measured]) -> str:
    """Say what the fold does to size and accuracy, of the trained models and of those made here."""
    groups = {
        "Trained models": [found for found in all_found if found.case.trained],
        "Made-up ones": [found for found in all_found if not found.case.trained],
    }
    return "\n".join(f"- {name}: {_changes(group)}" for name, group in groups.items() if group)


def _changes(group: Sequence[Measured]) -> str:
    pairs = [pair for found in group for mode, pair in found.rows.items() if mode != "none"]
    gains = [folded.sqnr - stock.sqnr for stock, folded in pairs if stock.sqnr is not None and folded.sqnr is not None]
    saved = [1 - folded.bytes / stock.bytes for stock, folded in pairs]
    return (
        f"over {len(pairs)} quantised pairs the fold changes the signal to quantisation noise by {min(gains):+.1f} to "
        f"{max(gains):+.1f} dB, {np.mean(gains):+.2f} dB on average,\n  and makes the .tflite {min(saved):.1%} to "
        f"{max(saved):.1%} smaller."
    )


def _line(mode: str, rows: Iterable[Row], *, classes: bool) -> str:
    cells = [mode]
    for row in rows:
        sqnr = "-" if row.sqnr is None else f"{row.sqnr:.1f} dB"
        top1 = f"{row.top1:.1%}" if classes and row.top1 is not None else "-"
        cells += [f"{row.bytes:,}", str(row.ops), f"{row.error:.1e}", sqnr, top1]
    return f"| {' | '.join(cells)} |"


def page(all_found: Sequence[Measured]) -> str:
    """Return the page."""
    packages = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "ai-edge-litert")}
    versions: dict[str, Any] = {"tf_bnfold": tf_bnfold.__version__, "Python": platform.python_version(), **packages}
    body = "\n".join(map(section, all_found))
    return f"""# Quantised, with and without the fold

`make quantisation` writes this page; [quantisation](quantisation.md) explains the modes. "Without" is the stock
converter on the same graph before folding: it folds the batch norms behind a convolution by itself. "With" is after the
fold of tf_bnfold. Error (max|a-b| / max|b|), signal to quantisation noise and top-1 agreement are those of the .tflite
beside the float graph before folding, on {COUNT // 2} made-up inputs; int8 and int16x8 were calibrated on
{COUNT // 2} others. The inputs are no recordings: compare the two sides of a row, and don't take the figures for the
accuracy of the model on real data. All models but the last are trained; the last is a small residual net with batch
norms before ReLU and convolution, of random weights.

{datetime.date.today().isoformat()}; {", ".join(f"{name} {version}" for name, version in versions.items())}.

{verdict(all_found)}

{body}"""


def main(models: str, file: str) -> None:
    """Measure and write the page."""
    pathlib.Path(file).write_text(page([measured(case, pathlib.Path(models)) for case in CASES]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
