"""Export a Keras file as a SavedModel, which is what everything else reads."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_bnfold.errors import InputError
from tf_bnfold.extras import missing
from tf_bnfold.formats.keras_config import check_keras_file
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.quiet import quiet

KERAS, KERAS2 = "keras", "tf_keras"
_WAY_OUT = "export it as a SavedModel with the code that made it, and give that by --saved_model"
_OF_KERAS2 = ("0.", "1.", "2.")


def export_keras_file(path: str, folder: str, *, allow_lambda: bool = False) -> str:
    """Load a Keras file with the Keras that wrote it, and export it as a SavedModel.

    A file of Keras 2 goes through tf_keras; where that is not installed, through Keras 3, if that can read it.

    Args:
      path: The file, .keras or HDF5.
      folder: Where to write the SavedModel.
      allow_lambda: Run the code of Lambda layers.

    Returns:
      A sentence for the report on how it was read.

    Raises:
      InputError: If the file can't be read, or is not safe to read.
    """
    version = check_keras_file(path, allow_lambda=allow_lambda, known=_registered())
    is_keras2 = version.startswith(_OF_KERAS2)
    lacks = missing("keras2")
    library = KERAS2 if is_keras2 and not lacks else KERAS
    try:
        model = _loaded(library, path, allow_lambda=allow_lambda)
    except Exception as error:  # Keras raises whatever its layers do
        hint = f"it is a file of Keras {version}, for which {lacks}" if is_keras2 and lacks else _WAY_OUT
        raise InputError(f"{path} can not be loaded by {_named(library)}: {one_line(error)}; {hint}") from error
    try:
        export_keras_model(model, folder)
    except Exception as error:
        raise InputError(f"{path} can not be exported by {_named(library)}: {one_line(error)}") from error
    written = f" (a file of Keras {version})" if is_keras2 and library == KERAS else ""
    return f"The original is the SavedModel that {_named(library)} exports from {os.path.basename(path)}{written}"


def export_keras_model(model: Any, folder: str) -> None:
    """Export a model of Keras 3 or Keras 2 for inference.

    Args:
      model: The model.
      folder: Where to write the SavedModel.
    """
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # it prints a summary
        if library_of(model) == KERAS2:
            model.save(folder, save_format="tf", include_optimizer=False)
        else:
            with _for_inference(model):
                model.export(folder, input_signature=_signature(model))


@contextlib.contextmanager
def _for_inference(model: Any) -> Iterator[None]:
    """Let calls of a model of Keras 3 be for inference where those of its `predict` are: where it takes `training`.

    Keras exports a call that does not say what it is for. A layer whose `training` is true by default, as that of
    Resizing and of other layers for pictures, then says it for all layers behind it, and batch norms train.
    """
    known = type(model)
    if "training" not in inspect.signature(model.call).parameters:
        yield
        return

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return known.__call__(self, *args, **{"training": False, **kwargs})

    model.__class__ = type(known.__name__, (known,), {"__call__": call, "__module__": known.__module__})
    try:
        yield
    finally:
        model.__class__ = known


def _signature(model: Any) -> list[Any] | None:
    """Return what a model of Keras 3 takes where its inputs fix the batch, which Keras would open; else None."""
    inputs: Any = getattr(model, "inputs", None) or ()
    if not any(each.shape and each.shape[0] is not None for each in inputs):
        return None
    if any(getattr(each, "sparse", False) or getattr(each, "ragged", False) for each in inputs):
        return None
    is_functional = any(each.__name__ == "Functional" for each in type(model).__mro__)
    structure = model.input if is_functional else inputs[0]
    return [tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype, name=each.name), structure)]


def library_of(model: Any) -> str:
    """Name the library that an object is a model of, "" for other objects; this imports none."""
    for each in type(model).__mro__:
        package = each.__module__.partition(".")[0]
        if package in (KERAS, KERAS2) and each.__name__ == "Model":
            return package
    return ""


def _loaded(library: str, path: str, *, allow_lambda: bool) -> Any:
    if library == KERAS and KERAS not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user trains with
    with quiet():
        models = importlib.import_module(f"{library}.models")
        return models.load_model(path, compile=False, safe_mode=not allow_lambda)


def _registered() -> set[str]:
    """Name the custom objects that the running program has registered with a Keras that it has imported."""
    names: set[str] = set()
    for library in (KERAS, KERAS2):
        if library in sys.modules:
            names |= set(sys.modules[library].saving.get_custom_objects())
    return names


def _named(library: str) -> str:
    package = importlib.import_module(library)
    return f"{'Keras' if library == KERAS else library} {package.__version__}"
