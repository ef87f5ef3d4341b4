"""Make the stock TFLite converter of a folded SavedModel."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

import tensorflow as tf

from tf_bnfold.formats.convertible import convertible
from tf_bnfold.formats.saved_model import load_saved_model, save_saved_model
from tf_bnfold.formats.tflite import signatures_to_convert


def stock_converter(folder: tempfile.TemporaryDirectory[str], path: str, *, tags: Collection[str]) -> Any:
    """Return a tf.lite.TFLiteConverter, which reads its model as late as in `convert`.

    Args:
      folder: Goes when the converter does.
      path: The SavedModel, in the folder.
      tags: Its tags.
    """
    model = load_saved_model(path, tags=tuple(tags))
    keys: Sequence[str] = signatures_to_convert(model)
    taken = convertible(model.graph_def)
    if taken is not model.graph_def:
        path = os.path.join(folder.name, "convertible")
        save_saved_model(model.with_graph(taken), path)
    converter = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=list(keys), tags=set(tags))
    converter._tf_bnfold_folder = folder
    return converter
