"""A stand-in for tf.lite.TFLiteConverter: the stock converter, of the folded model.

In an existing script `tf.lite.TFLiteConverter.from_...` becomes `tf_bnfold.lite.TFLiteConverter.from_...`; all that is
set on the converter then stays as it is.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

from tf_bnfold.options import Options


class TFLiteConverter:
    """Makes stock converters. Each has the report of the fold in its attribute `fold_report`."""

    @staticmethod
    def from_saved_model(
        saved_model_dir: str | os.PathLike[str],
        signature_keys: Sequence[str] | None = None,
        tags: Collection[str] | None = None,
        *,
        options: Options | None = None,
    ) -> Any:
        """Fold and verify a SavedModel, and return the stock converter of the result.

        Args:
          saved_model_dir: Its folder.
          signature_keys: Signatures to convert; all by default.
          tags: Tags of its MetaGraph; `serve` by default.
          options: How to read, fold and verify.

        Returns:
          A tf.lite.TFLiteConverter.

        Raises:
          FoldError: Its class and `exit_code` tell what failed.
        """
        return _converter(saved_model_dir, signature_keys or (), tags, options)

    @staticmethod
    def from_keras_model(model: Any, *, options: Options | None = None) -> Any:
        """Fold and verify a model of Keras 3 or Keras 2, and return the stock converter of the result.

        Args:
          model: The model.
          options: How to fold and verify.

        Returns:
          A tf.lite.TFLiteConverter.

        Raises:
          FoldError: Its class and `exit_code` tell what failed.
        """
        return _converter(model, (), None, options)

    @staticmethod
    def from_concrete_functions(
        funcs: Sequence[Any], trackable_model: Any = None, *, options: Options | None = None
    ) -> Any:
        """Fold and verify concrete functions, and return the stock converter of the result.

        Args:
          funcs: The functions, whose names are the signatures' keys where there are several.
          trackable_model: What holds their variables; not needed, as a function knows them.
          options: How to fold and verify.

        Returns:
          A tf.lite.TFLiteConverter.

        Raises:
          FoldError: Its class and `exit_code` tell what failed.
        """
        del trackable_model
        return _converter(list(funcs), (), None, options)


def _converter(model: Any, signature_keys: Sequence[str], tags: Collection[str] | None, options: Options | None) -> Any:
    api = importlib.import_module("tf_bnfold.api")  # costs seconds: it imports TensorFlow
    stock = importlib.import_module("tf_bnfold.formats.stock_converter")
    chosen = options or Options()
    chosen = dataclasses.replace(
        chosen,
        signature_keys=tuple(signature_keys) or chosen.signature_keys,
        tags=tuple(tags) if tags else chosen.tags,
    )
    folder = tempfile.TemporaryDirectory(prefix="tf_bnfold-")
    path = os.path.join(folder.name, "folded")
    report = api.fold_saved_model(model, path, chosen)
    converter = stock.stock_converter(folder, path, tags=chosen.tags)
    converter.fold_report = report
    return converter
