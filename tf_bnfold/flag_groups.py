"""The flags of the command: what each is called, and what --help says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from tf_bnfold.options import Options

_DEFAULTS = Options()


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag: how absl defines it, and its line in --help."""

    define: Callable[..., Any]
    name: str
    default: Any
    metavar: str
    text: str
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def usage(self) -> str:
        """How it is written, for instance "--tflite FILE" or "--[no]verify"."""
        if self.define is flags.DEFINE_bool:
            return f"--[no]{self.name}" if self.default else f"--{self.name}"
        return f"--{self.name} {self.metavar}"


_S, _L, _B = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_bool

GROUPS: Mapping[str, Sequence[Flag]] = {
    "Input": (
        Flag(_S, "saved_model", "", "DIR", "SavedModel folder to read, the one that holds saved_model.pb"),
        Flag(_S, "keras_model", "", "FILE.keras|.h5", "Keras model to read instead, of Keras 3 or Keras 2"),
        Flag(
            _B,
            "allow_unsafe_deserialization",
            _DEFAULTS.allow_unsafe_deserialization,
            "",
            "run the Python code that Lambda layers of --keras_model hold; only for files that you trust",
        ),
        Flag(_S, "frozen_graph", "", "FILE.pb", "frozen GraphDef to read instead, binary or text"),
        Flag(_L, "tags", list(_DEFAULTS.tags), "A,B", "tags of the MetaGraph to load (default: serve)"),
        Flag(_L, "signature_keys", [], "A,B", "signatures to keep (default: all)"),
        Flag(
            flags.DEFINE_multi_string,
            "input_shapes",
            [],
            "NAME:1,224,224,3",
            "fix the unknown dimensions of an input; repeat the flag for more inputs",
        ),
        Flag(
            _L,
            "input_nodes",
            [],
            "A,B:1",
            "tensors that become the inputs: the graph is cut there (default: the signature's inputs, or placeholders)",
        ),
        Flag(
            _L,
            "output_nodes",
            [],
            "A,B:1",
            "tensors that become the outputs (default: the signature's, or of a frozen graph what nothing reads)",
        ),
        Flag(
            flags.DEFINE_multi_string,
            "set_input",
            [],
            "NAME=VALUE",
            "make an input a constant, as in phase_train=false or size=[2,3]; repeat the flag for more inputs",
        ),
    ),
    "Output": (
        Flag(_S, "tflite", "", "FILE", ".tflite file to write"),
        Flag(_S, "onnx", "", "FILE.onnx", ".onnx file to write, by tf2onnx: pip install 'tf_bnfold[onnx]'"),
        Flag(_S, "output_saved_model", "", "DIR", "folder for the folded SavedModel"),
        Flag(_S, "output_graph", "", "FILE.pb", "file for the folded frozen graph; text where it ends in .pbtxt"),
        Flag(
            flags.DEFINE_multi_string,
            "report",
            [],
            "FILE.json|.html",
            "file for the whole report: .json for programs, or .html for people, by pip install 'tf_bnfold[report]'; "
            "repeat the flag for both",
        ),
        Flag(
            _L,
            "explain",
            [],
            "NODE,...",
            "say of nodes what they are, whether and where they were folded, or why not and what would help; nothing "
            "is verified or converted then, unless an output is given too",
        ),
        Flag(
            _S,
            "compare",
            "",
            "OLD.json",
            "say what changed since an earlier report; write nothing, exit 4, when a batch norm that folded stays now",
        ),
        Flag(_B, "overwrite", _DEFAULTS.overwrite, "", "replace a SavedModel that is already at --output_saved_model"),
        Flag(_B, "dry_run", _DEFAULTS.dry_run, "", "only report: do everything, but write no model"),
    ),
    "Folding": (
        Flag(_S, "keep", _DEFAULTS.keep, "REGEX", "leave batch norms alone whose name matches anywhere"),
        Flag(
            _S,
            "shared_weights",
            _DEFAULTS.shared_weights,
            "copy|always|keep",
            "weights that several ops read: copy them where these take different things, and the report says how many "
            "bytes that adds, but not many times for one batch norm alone; always, even then; or keep them, and fold "
            "only what does not scale them (default: copy)",
        ),
        Flag(_B, "fail_if_unfolded", _DEFAULTS.fail_if_unfolded, "", "write no model, exit 4, when a batch norm stays"),
    ),
    "Verification": (
        Flag(_B, "verify", _DEFAULTS.verify, "", "run original and result and compare them (default: on)"),
        Flag(
            _S,
            "representative_data",
            _DEFAULTS.representative_data,
            "PATH",
            "inputs to compare and to calibrate on: an .npz file or a folder of .npy files with one array per input "
            "name, first axis the batch; a TFRecord file of tf.Examples; a folder of .png and .jpg files (default: "
            "seeded random inputs)",
        ),
        Flag(
            _L,
            "image_mean",
            ["0"],
            "M | R,G,B",
            "subtracted from the pixels (0 to 255) of pictures that are representative data (default: 0)",
        ),
        Flag(_L, "image_std", ["1"], "S | R,G,B", "what they are divided by then: (pixel - mean) / std (default: 1)"),
        Flag(
            flags.DEFINE_float,
            "rtol",
            _DEFAULTS.rtol,
            "X",
            f"largest accepted error, max|a-b| / max|b| (default: {_DEFAULTS.rtol:g})",
        ),
    ),
    "Converter": (
        Flag(_B, "allow_select_tf_ops", _DEFAULTS.allow_select_tf_ops, "", "let the .tflite use TensorFlow ops too"),
        Flag(
            _B,
            "allow_custom_ops",
            _DEFAULTS.allow_custom_ops,
            "",
            "take ops that TensorFlow does not know, and leave them and others that TFLite lacks to its interpreter",
        ),
        Flag(
            _B,
            "widen_to_float32",
            _DEFAULTS.widen_to_float32,
            "",
            "let the .tflite compute in float32 what the graph computes in float16, bfloat16 or float64",
        ),
        Flag(
            _B,
            "gpu_compatibility",
            _DEFAULTS.gpu_compatibility,
            "",
            "report which ops of the .tflite would leave the GPU delegate, by TensorFlow's own analyser; it has to be "
            "that of TensorFlow 2.16 or 2.17",
        ),
        Flag(
            flags.DEFINE_integer,
            "opset",
            _DEFAULTS.opset,
            "N",
            f"version of ONNX's operators that the .onnx uses (default: {_DEFAULTS.opset})",
            {"lower_bound": 9},
        ),
    ),
    "Quantisation": (
        Flag(
            _S,
            "quantize",
            _DEFAULTS.quantize,
            "MODE",
            "quantise the .tflite: dynamic (int8 weights), float16 (weights), int8, or int16x8 (int16 values, int8 "
            "weights); the last two calibrate on --representative_data (default: none)",
        ),
        *(
            Flag(
                _S,
                f"inference_{side}_type",
                "float32",
                "TYPE",
                f"type of its float {side}s: float32, int8 or uint8 with int8, int16 with int16x8 (default: float32)",
            )
            for side in ("input", "output")
        ),
        Flag(
            flags.DEFINE_integer,
            "calibration_samples",
            _DEFAULTS.calibration_samples,
            "N",
            f"rows of the data to calibrate on at most (default: {_DEFAULTS.calibration_samples})",
        ),
        Flag(
            flags.DEFINE_float,
            "min_sqnr",
            _DEFAULTS.min_sqnr,
            "DB",
            "signal to quantisation noise that the outputs of a quantised .tflite must have, in dB "
            f"(default: {_DEFAULTS.min_sqnr:g})",
        ),
    ),
    "General": (
        Flag(
            flags.DEFINE_integer,
            "verbosity",
            0,
            "N",
            "-1 prints errors only, 1 adds tracebacks and TensorFlow's own messages to an error (default: 0)",
            {"lower_bound": -1, "upper_bound": 1},
        ),
        Flag(_S, "flagfile", "", "FILE", "read flags from a file, one a line; may name further flagfiles"),
        Flag(_B, "version", "false", "", "print the version and exit"),
        Flag(_B, "help", "false", "", "print this text and exit", {"short_name": "h"}),
    ),
}
