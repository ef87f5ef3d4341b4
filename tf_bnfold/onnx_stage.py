"""The stage that makes an .onnx of the folded graph. Importing it needs the extra `onnx`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import onnx
import tf2onnx

from tf_bnfold.clock import Clock
from tf_bnfold.errors import ConverterError
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.onnx import convert_to_onnx, op_counts, signature_for_onnx
from tf_bnfold.options import Options
from tf_bnfold.report import Size
from tf_bnfold.verify import Samples
from tf_bnfold.verify.onnx import verify_onnx
from tf_bnfold.verify.values import Comparison, NotVerified


def check(model: Model) -> None:
    """Refuse what can't become an .onnx, before any work is done.

    Raises:
      FlagError: If the model has several signatures.
      ConverterError: If it has custom ops, or writes variables.
    """
    signature_for_onnx(model)
    if model.custom_ops:
        raise ConverterError(f"--onnx: ONNX has no {', '.join(sorted(model.custom_ops))}, which TensorFlow has neither")
    if model.state:
        raise ConverterError(
            f"--onnx: ONNX has no variables, and the model writes {model.state[0]}; make its state an input and an "
            "output of the signature"
        )


def convert(model: Model, options: Options, clock: Clock, work_dir: Path) -> tuple[bytes, Size]:
    """Convert the folded model.

    Args:
      model: The model.
      options: Of these `opset` counts here.
      clock: Times the step.
      work_dir: An empty folder.

    Returns:
      The .onnx, and its size.

    Raises:
      ConverterError: If tf2onnx refuses the model.
      VerificationError: If what it gives is no valid ONNX.
    """
    with clock.step("convert_onnx"):
        content = convert_to_onnx(model, signature_for_onnx(model), work_dir=str(work_dir), opset=options.opset)
    return content, Size(op_counts(content), len(content))


def verify(
    model: Model, content: bytes, samples: Samples | NotVerified, options: Options, clock: Clock
) -> Comparison | NotVerified:
    """Compare the .onnx with the folded model."""
    with clock.step("verify_onnx"):
        return verify_onnx(model, signature_for_onnx(model), content, samples, rtol=options.rtol)


def versions(options: Options) -> Mapping[str, str]:
    """Return what made the .onnx and ran it, by name."""
    return {
        "tf2onnx": tf2onnx.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "onnx_opset": str(options.opset),
    }
