"""Make the stock TFLite converter of a folded SavedModel."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from typing import Any

import tensorflow as tf

from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.tflite import signatures_to_convert


def stock_converter(folder: tempfile.TemporaryDirectory[str], path: str, *, tags: Collection[str]) -> Any:
    """Return a tf.lite.TFLiteConverter, which reads its model as late as in `convert`.

    Args:
      folder: Goes when the converter does.
      path: The SavedModel, in the folder.
      tags: Its tags.
    """
    keys: Sequence[str] = signatures_to_convert(load_saved_model(path, tags=tuple(tags)))
    converter = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=list(keys), tags=set(tags))
    converter._tf_bnfold_folder = folder
    return converter
