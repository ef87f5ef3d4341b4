"""Export what a Python program has in its hands: a Keras model, a concrete function, a tf.Module."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_bnfold.errors import InputError
from tf_bnfold.formats.keras_file import export_keras_model, library_of
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.quiet import quiet

_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


def export_object(model: Any, folder: str) -> str:
    """Export an object as a SavedModel.

    They are told apart in this order: a model of Keras 3 or Keras 2 has a class `Model` of that library among its
    bases; a concrete function is a tf.types.experimental.ConcreteFunction; anything else has to be a tf.Module.

    Args:
      model: A Keras model, a concrete function, a sequence of them, or a tf.Module whose tf.functions have an
        input_signature: these are its signatures, by their names, or `serving_default` where there is one.
      folder: Where to write the SavedModel.

    Returns:
      A sentence for the report on what it was.

    Raises:
      InputError: If it is none of these, or can't be exported.
    """
    try:
        return _exported(model, folder)
    except InputError:
        raise
    except Exception as error:  # Keras raises whatever its layers do
        raise InputError(f"the {type(model).__name__} can not be exported: {one_line(error)}") from error


def _exported(model: Any, folder: str) -> str:
    if library_of(model):
        export_keras_model(model, folder)
        return f"The original is the SavedModel that Keras exports from the model {model.name}"
    functions = list(model) if isinstance(model, list | tuple) else [model]
    if functions and all(isinstance(each, tf.types.experimental.ConcreteFunction) for each in functions):
        _save_functions(functions, folder)
        return f"The original is the SavedModel of {', '.join(_name(each) for each in functions)}"
    if isinstance(model, tf.Module):
        with quiet():
            tf.saved_model.save(model, folder, signatures=_signatures(model))
        return f"The original is the SavedModel of the tf.Module {type(model).__name__}"
    raise InputError(
        f"a {type(model).__name__} is no model: give a path, a Keras model, a concrete function "
        "(tf.function(...).get_concrete_function(...)) or a tf.Module"
    )


def _save_functions(functions: Sequence[Any], folder: str) -> None:
    holder = tf.Module()
    holder.functions = list(functions)
    holder.captured = [variable for each in functions for variable in each.graph.variables]
    keys = [_DEFAULT] if len(functions) == 1 else _unique([_name(each) for each in functions])
    with quiet():
        tf.saved_model.save(holder, folder, signatures=dict(zip(keys, functions, strict=True)))


def _name(function: Any) -> str:
    """Return what a concrete function was called as Python; TensorFlow makes "__inference_name_12" of it."""
    name = function.name.decode() if isinstance(function.name, bytes) else function.name
    return re.sub(r"\W", "", str(name).removeprefix("__inference_").rstrip("0123456789")).strip("_") or "function"


def _unique(names: Sequence[str]) -> list[str]:
    return [f"{name}_{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def _signatures(module: tf.Module) -> Mapping[str, Callable[..., Any]]:
    """Return the tf.functions of a module that say what they take."""
    attributes = {name: getattr(module, name, None) for name in dir(module) if not name.startswith("__")}
    attributes["__call__"] = getattr(module, "__call__", None)  # noqa: B004 it is asked for its signature
    found = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, tf.types.experimental.GenericFunction) and getattr(value, "input_signature", None)
    }
    if not found:
        raise InputError(
            f"the tf.Module {type(module).__name__} has no tf.function with an input_signature, "
            "so its inputs are not known"
        )
    return (
        {_DEFAULT: next(iter(found.values()))} if len(found) == 1 else {name.strip("_"): f for name, f in found.items()}
    )
