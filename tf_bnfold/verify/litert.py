"""Run a .tflite in LiteRT's interpreter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.verify.session import Inputs
from tf_bnfold.verify.values import Array


class LiteRT:
    """A .tflite in an interpreter. Its methods raise RuntimeError or ValueError for what it can't run."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
        keys = self._interpreter.get_signature_list()
        self._runners = {key: self._interpreter.get_signature_runner(key) for key in keys}

    def run(self, key: str, inputs: Inputs) -> dict[str, Array]:
        """Return the outputs by name, none of a signature that it lacks; float values stand for quantised ones.

        The state of recurrent ops is reset, so that the next run starts anew too; variables stay as they are.
        """
        if key not in self._runners:
            return {}
        runner = self._runners[key]
        details = runner.get_input_details()
        fed = {name: quantised(value, details[name]) for name, value in inputs.items()}
        found = {name: np.array(value) for name, value in runner(**fed).items()}
        self._interpreter.reset_all_variables()
        details = runner.get_output_details()
        return {name: dequantised(value, details[name]) for name, value in found.items()}


def quantised(value: Array, detail: Mapping[str, Any]) -> Array:
    """Return float values as an integer input takes them, `round(x / scale) + zero_point`, as far as its dtype goes."""
    dtype, (scale, zero_point) = np.dtype(detail["dtype"]), detail["quantization"]
    if value.dtype.kind != "f" or dtype.kind not in "iu" or not scale:
        return value
    limits = np.iinfo(dtype)
    steps: Array = np.clip(np.round(value.astype(np.float64) / scale) + zero_point, limits.min, limits.max)
    return steps.astype(dtype)


def dequantised(value: Array, detail: Mapping[str, Any]) -> Array:
    """Return what integers of an output stand for, `(q - zero_point) * scale`, float32; others as they are."""
    scale, zero_point = detail["quantization"]
    if value.dtype.kind not in "iu" or not scale:
        return value
    real: Array = (value.astype(np.float64) - zero_point) * scale
    return real.astype(np.float32)


def reason(error: Exception) -> str:
    """Return why a .tflite can't run, in one line."""
    message = str(error)
    if "Select TensorFlow op" in message or "Flex" in message:
        return "it has TensorFlow ops, which need the Flex delegate"
    return one_line(error)
