"""What users of the stock converter run.

Usage: python benchmarks/stock.py SAVED_MODEL FILE.tflite
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def convert(saved_model: str, representative_dataset: Callable[[], Any] | None = None) -> bytes:
    """Convert a SavedModel, to int8 where there is data to calibrate on."""
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    if representative_dataset:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative_dataset
    return bytes(converter.convert())


if __name__ == "__main__":
    pathlib.Path(sys.argv[2]).write_bytes(convert(sys.argv[1]))
