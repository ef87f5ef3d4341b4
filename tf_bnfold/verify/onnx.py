"""Compare an .onnx with the folded graph."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import onnx

# Read as it is imported. From 1.29 on it sends what it runs to its makers, and keeps files in ~/.cache for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import Model
from tf_bnfold.verify.judge import Judge, compare_signature
from tf_bnfold.verify.samples import Samples
from tf_bnfold.verify.session import Inputs
from tf_bnfold.verify.tally import Tally
from tf_bnfold.verify.values import Array, Comparison, NotVerified

ONNX = ".onnx with the folded graph"


def verify_onnx(
    folded: Model, key: str, content: bytes, samples: Samples | NotVerified, *, rtol: float = 1e-3
) -> Comparison | NotVerified:
    """Compare the outputs of an .onnx, run by onnxruntime, with those of the graph that it was converted from.

    Args:
      folded: The model that was converted.
      key: The signature that was.
      content: The serialised ModelProto.
      samples: Inputs, from `make_samples`.
      rtol: The error to accept in float32; for float16 and bfloat16 it is at least 16 roundings of the dtype.

    Returns:
      What was found. What differs behind an op that a small error tips is told as a share and does not fail.
    """
    if isinstance(samples, NotVerified):
        return NotVerified(ONNX, f"{samples.compared}: {samples.reason}")
    try:
        onnx.checker.check_model(content, full_check=True)
        run = _Session(content)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return NotVerified(ONNX, f"onnx.checker refuses it: {one_line(error)}")
    except Exception as error:  # noqa: BLE001 onnxruntime has a class of its own for each failure
        return NotVerified(ONNX, f"onnxruntime can not load it: {one_line(error)}")
    tally = Tally(ONNX)
    try:
        compare_signature(key, folded, run, Judge(folded, rtol), samples, tally)
    except _CanNotRunError as error:
        return NotVerified(ONNX, f"onnxruntime can not run it: {one_line(error)}")
    return tally.finding()


class _CanNotRunError(Exception):
    """What onnxruntime says of inputs that it does not take, or of an op that fails."""


class _Session:
    """An .onnx in onnxruntime, as it runs for users: with its optimisations."""

    def __init__(self, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Inputs) -> Mapping[str, Array]:
        """Return the outputs by name."""
        fed = {name: _as_strings(value) if value.dtype == object else value for name, value in inputs.items()}
        try:
            values = self._session.run(None, fed)
        except Exception as error:  # onnxruntime has a class of its own for each failure
            raise _CanNotRunError(str(error)) from error
        return {name: _as_bytes(value) for name, value in zip(self._names, values, strict=True)}


def _as_strings(value: Array) -> Array:
    """Return strings as onnxruntime takes them; TensorFlow has bytes."""
    texts = [each.decode("utf-8") if isinstance(each, bytes) else each for each in value.ravel().tolist()]
    return np.array(texts, dtype=object).reshape(value.shape)


def _as_bytes(value: Array) -> Array:
    if value.dtype.kind not in "OU":
        return value
    texts = [each.encode("utf-8") if isinstance(each, str) else each for each in value.ravel().tolist()]
    return np.array(texts, dtype=object).reshape(value.shape)
