"""The options of a run, as one value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

# Ways to quantise in which linear ops compute with integers: one scale for all features that they read, and one for all
# weights of an output, so that features of unlike ranges are lost in either.
IN_INTEGERS = ("dynamic", "int8", "int16x8")
SHARED_WEIGHTS = ("copy", "always", "keep")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run is asked to do beyond its input and outputs.

    Attributes:
      signature_keys: Signatures to keep; empty for all.
      tags: Tags of the MetaGraph to load.
      input_shapes: Shape per signature input name; fixes unknown dimensions (-1 stays unknown).
      input_nodes: Tensors ("a" or "a:1") at which the graph is cut: they become its inputs; empty for those it has.
      output_nodes: Tensors that become the outputs; empty for those it has.
      set_input: Value per input (a number, a bool, or lists of them) that becomes a constant.
      allow_custom_ops: Take ops that TensorFlow does not know, and leave them to the TFLite interpreter.
      allow_unsafe_deserialization: Run the Python code of Lambda layers that a Keras file holds.
      widen_to_float32: Let the .tflite compute in float32 what the graph computes in float16, bfloat16 or float64.
      allow_select_tf_ops: Let the .tflite use TensorFlow ops beside the built-in ones.
      opset: Version of ONNX's operators that the .onnx uses.
      verify: Compare the result with the original.
      representative_data: Inputs to compare and to calibrate on: an .npz file with one array per input name, a folder
        of .npy files, a TFRecord file of tf.Examples, or a folder of pictures; "" for seeded random inputs.
      image_mean: What is subtracted from the pixels (0 to 255) of pictures: one number, or one per channel.
      image_std: What they are divided by then.
      rtol: Largest error, max|a-b| / max|b|, that verification accepts in float32.
      quantize: How the .tflite is quantised: "none", "dynamic", "float16", "int8" or "int16x8".
      inference_input_type: Dtype of its float inputs: "float32", with int8 also "int8" or "uint8", with int16x8 also
        "int16".
      inference_output_type: Dtype of its float outputs, likewise.
      calibration_samples: Rows of the representative data to calibrate on at most.
      gpu_compatibility: Ask TensorFlow's analyser which ops of the .tflite would leave the GPU delegate.
      min_sqnr: Signal to quantisation noise in dB that the outputs of a quantised .tflite must have.
      keep: Regular expression; batch norms whose name it finds are left alone. "" keeps none.
      shared_weights: Of weights that several ops read, "copy" gives each op its own where they take different things,
        but not for one batch norm alone more than two; "always" does even that; "keep" stores them once, and leaves
        what would scale them.
      fail_if_unfolded: Fail when a batch norm stays.
      overwrite: Replace a SavedModel folder that is not empty.
      dry_run: Only report.
    """

    signature_keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ("serve",)
    input_shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    input_nodes: tuple[str, ...] = ()
    output_nodes: tuple[str, ...] = ()
    set_input: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allow_custom_ops: bool = False
    allow_unsafe_deserialization: bool = False
    widen_to_float32: bool = False
    allow_select_tf_ops: bool = False
    opset: int = 15
    verify: bool = True
    representative_data: str = ""
    image_mean: tuple[float, ...] = (0.0,)
    image_std: tuple[float, ...] = (1.0,)
    rtol: float = 1e-3
    quantize: str = "none"
    inference_input_type: str = "float32"
    inference_output_type: str = "float32"
    calibration_samples: int = 500
    min_sqnr: float = 10.0
    gpu_compatibility: bool = False
    keep: str = ""
    shared_weights: str = "copy"
    fail_if_unfolded: bool = False
    overwrite: bool = False
    dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    """One run: what to read, what to write, and how.

    Attributes:
      saved_model: SavedModel folder to read; "" where another input is given.
      tflite: .tflite file to write; "" for none.
      output_saved_model: SavedModel folder to write; "" for none.
      report: Report file to write, as JSON; "" for none.
      options: Everything else.
      command: The command line that asked for it, for the report.
      frozen_graph: File of a frozen GraphDef to read instead of a SavedModel; "" for none.
      output_graph: File of the folded GraphDef to write, as text where the suffix is .pbtxt; "" for none.
      keras_model: File of a Keras model to read instead of a SavedModel; "" for none.
      onnx: .onnx file to write; "" for none.
      page: Report file to write, as a page for a browser; "" for none.
      explain: Names of nodes to explain.
      compare: Report file of an earlier run; no batch norm that folded then may stay now; "" for none.
    """

    saved_model: str = ""
    tflite: str = ""
    output_saved_model: str = ""
    report: str = ""
    options: Options = dataclasses.field(default_factory=Options)
    command: tuple[str, ...] = ()
    frozen_graph: str = ""
    output_graph: str = ""
    keras_model: str = ""
    onnx: str = ""
    page: str = ""
    explain: tuple[str, ...] = ()
    compare: str = ""


def wrong_folding(keep: str, shared_weights: str) -> str | None:
    """Say what is wrong with the options that the fold itself reads, or None."""
    try:
        re.compile(keep)
    except re.error as error:
        return f"--keep={keep}: not a regular expression: {error}"
    if shared_weights not in SHARED_WEIGHTS:
        return f"--shared_weights={shared_weights}: give {', '.join(SHARED_WEIGHTS[:-1])} or {SHARED_WEIGHTS[-1]}"
    return None
