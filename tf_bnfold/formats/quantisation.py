"""The settings of the stock converter for each way to quantise, and what it calibrates on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_bnfold.errors import FlagError
from tf_bnfold.formats.model import Model, SignatureDef
from tf_bnfold.formats.representative import Batches, Source
from tf_bnfold.formats.representative.source import Row

OnProgress = Callable[[int, int | None], None]


def _ignore(*_: object) -> None:
    pass


_INT8, _INT16X8 = "int8", "int16x8"


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How a .tflite is quantised.

    Attributes:
      mode: "none", "dynamic", "float16", "int8" or "int16x8".
      input_type: Dtype of its float inputs: "float32", or what the mode admits beside it.
      output_type: Dtype of its float outputs.
      source: What int8 and int16x8 are calibrated on.
      most: Rows to calibrate on at most.
      on_progress: Called with the number of inputs that were run, and with that of all if it is known.
    """

    mode: str = "none"
    input_type: str = "float32"
    output_type: str = "float32"
    source: Source | None = None
    most: int = 500
    on_progress: OnProgress = _ignore


FLOAT = Quantisation()


def configure(
    converter: Any, quantisation: Quantisation, model: Model, keys: Sequence[str], *, allow_select_tf_ops: bool
) -> None:
    """Set the stock converter.

    An op that has no integer form stays in float32; the converter leaves it so for int8 whatever it is told, and for
    int16x8 where the float ops are allowed too.

    Args:
      converter: A tf.lite.TFLiteConverter.
      quantisation: What is wanted.
      model: The model that it converts.
      keys: The signatures that it converts.
      allow_select_tf_ops: Let the result use TensorFlow ops.

    Raises:
      FlagError: If the model can't be calibrated.
      InputError: If the data can't be used.

    Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization
    """
    sets = tf.lite.OpsSet
    integers = {
        _INT8: [sets.TFLITE_BUILTINS_INT8],
        _INT16X8: [sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8, sets.TFLITE_BUILTINS],
    }
    supported = integers.get(quantisation.mode, [sets.TFLITE_BUILTINS])
    converter.target_spec.supported_ops = [*supported, *([sets.SELECT_TF_OPS] if allow_select_tf_ops else [])]
    if quantisation.mode == "none":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantisation.mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantisation.mode in integers:
        converter.representative_dataset = calibration(quantisation, model, keys)
        converter.inference_input_type = tf.as_dtype(quantisation.input_type)
        converter.inference_output_type = tf.as_dtype(quantisation.output_type)


def calibration(
    quantisation: Quantisation, model: Model, keys: Sequence[str]
) -> Callable[[], Iterator[tuple[str, Row]]]:
    """Return what the converter calls for inputs: of each signature in turn, with its key.

    A signature without inputs to calibrate on would stay float without a word, so each has some.

    Raises:
      FlagError: If there is no data, or the model has ops that can't run here.
      InputError: If the data can't be used.
    """
    source = quantisation.source
    if source is None:
        raise FlagError(f"--quantize={quantisation.mode} needs inputs to calibrate on: give --representative_data")
    if model.custom_ops:
        raise FlagError(
            f"--quantize={quantisation.mode} runs the model to calibrate it, and nothing here can run its custom op "
            f"{min(model.custom_ops)}; cut it off with --output_nodes, or give --quantize=dynamic or float16"
        )
    signatures: Mapping[str, SignatureDef] = model.signatures
    batches = {key: Batches(source, key, signatures[key], size=1, most=quantisation.most) for key in keys}
    counts = [each.count() for each in batches.values()]
    known = [count for count in counts if count is not None]
    total = sum(known) if len(known) == len(counts) else None

    def inputs() -> Iterator[tuple[str, Row]]:
        done = 0
        for key, each in batches.items():
            for row in each:
                yield key, row
                done += 1
                quantisation.on_progress(done, total)

    return inputs
