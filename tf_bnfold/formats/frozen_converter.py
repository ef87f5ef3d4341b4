"""The stock TFLite converter of a SavedModel that holds constants only, without loads that it needs for others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tensorflow.lite.python import conversion_metadata_schema_py_generated as metadata
from tensorflow.lite.python import lite


class _FrozenConverter(lite.TFLiteSavedModelConverterV2):  # type: ignore[misc]  # TensorFlow has no type stubs
    """Reads the graph, and not once more for the stack traces in it: what this package saves has none."""

    @lite._export_metrics  # type: ignore[untyped-decorator]
    def convert(self) -> Any:
        """Convert the model, as the base class does."""
        graph_def, _, _ = self._load_saved_model(self.saved_model_dir, self._saved_model_tags)
        return self._convert_from_saved_model(graph_def)


def frozen_converter(path: str, *, signature_keys: Sequence[str], tags: Collection[str]) -> Any:
    """Return what `tf.lite.TFLiteConverter.from_saved_model` does for a SavedModel of constants.

    That function loads the model to look up its functions, which the converter of a saved_model.pb does not use, and
    this converter loads it again for stack traces. Of ResNet152 each took a quarter of the CPU time of a conversion.

    Args:
      path: The folder.
      signature_keys: Signatures to convert, which are all in it.
      tags: Its tags.

    Source: TFLiteConverterV2.from_saved_model in tensorflow/lite/python/lite.py
    """
    lite.TFLiteConverterBase._set_original_model_type(metadata.ModelType.TF_SAVED_MODEL)
    return _FrozenConverter(path, set(tags), list(signature_keys))
