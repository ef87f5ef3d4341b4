"""Refuse what is not to be trusted in a Keras file, before Keras opens it."""

from __future__ import annotations

import builtins
import collections
import json
import os
import stat
import zipfile
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any

import h5py

from tf_bnfold.errors import InputError

H5_SUFFIXES = (".h5", ".hdf5")

# Keras stores what it writes uncompressed, so a file that declares far more than it has is made to do harm.
_MOST_EXPANSION = 100
_ALWAYS_FINE = 1 << 26
_MOST_BYTES = 1 << 33  # weights that fit in a graph (2 GiB), and their optimizer's state

_LAMBDAS = ("Lambda", "__lambda__")
# Layers that open another file or unpickle code as they are rebuilt.
_OPENING = ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
_VOCABULARIES = ("vocabulary", "idf_weights")
_PACKAGES = ("keras", "tf_keras", "keras_hub", "keras_cv", "keras_nlp", "builtins")
_HARMLESS_BUILTINS = ("abs", "max", "min", "pow", "round", "sum")
_NOT_FOR_MODELS = ("utils", "saving", "datasets", "export", "models", "config")
# A Keras 2 model may call functions of TensorFlow by name, as it is rebuilt; these only compute.
_FUNCTION_LAYERS = ("TFOpLambda", "SlicingOpLambda", "TFClassMethodDispatcher", "InstanceMethod", "InstanceProperty")
_FUNCTIONS = (
    "__operators__", "math", "nn", "image", "linalg", "signal", "strings", "bitwise", "random", "sets", "quantization",
    "dtypes", "keras.activations", "keras.backend", "compat.v1.math", "compat.v1.nn", "compat.v1",
)  # fmt: skip
_HARMFUL = ("py_func", "numpy_function", "load_", "print", "Print", "write", "read", "save", "restore", "delete")


def check_keras_file(path: str, *, allow_lambda: bool = False, known: Collection[str] = ()) -> str:
    """Check a Keras file, and say which Keras wrote it.

    Args:
      path: The file, a .keras archive or HDF5.
      allow_lambda: Let Lambda layers be, whose Python code runs when Keras opens the file.
      known: Names of custom classes and functions that the program has registered with Keras.

    Returns:
      The version of Keras, "" where the file does not say.

    Raises:
      InputError: If the file is none that Keras writes, or holds what can run code, lead out of it, or fill the memory.
    """
    try:
        if path.endswith(H5_SUFFIXES):
            with open(path, "rb") as file:
                config, version = _read_h5(file, path)
        else:
            config, version = _read_zip(path)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise InputError(f"{path} is damaged, or no file that Keras writes: {_first_line(error)}") from error
    for entry in _entries(config):
        _refuse_lambda(entry, path, allow_lambda=allow_lambda)
        _refuse_opening(entry, path)
        _refuse_module(entry, path, known)
        _refuse_function(entry, path)
    return version


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_zip(path: str) -> tuple[Any, str]:
    """Check a .keras archive; return its config and the version of Keras."""
    with zipfile.ZipFile(path) as archive:
        _check_members(archive, path)
        names = archive.namelist()
        if "config.json" not in names:
            hint = "; it holds weights only, give the whole model" if "model.weights.h5" in names else ""
            raise InputError(f"{path} is no Keras model: there is no config.json in it{hint}")
        config = json.loads(archive.read("config.json"))
        metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
        for name in names:
            if name.endswith(H5_SUFFIXES):
                with archive.open(name) as weights, h5py.File(weights, "r") as file:
                    _check_h5(file, archive.getinfo(name).file_size, f"{name} in {path}")
    version = metadata.get("keras_version", "") if isinstance(metadata, dict) else ""
    return config, str(version)


def _check_members(archive: zipfile.ZipFile, path: str) -> None:
    members = archive.infolist()
    for member in members:
        name = PurePosixPath(member.filename)
        outside = name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{path} is not safe to open: its member {member.filename!r} leads out of it")
    if len({member.filename for member in members}) < len(members):
        raise InputError(f"{path} is damaged: two of its members have the same name")
    declared = sum(member.file_size for member in members)
    if _too_large(declared, os.path.getsize(path)):
        raise InputError(
            f"{path} is not safe to open: its members declare {declared} bytes, but the file has "
            f"{os.path.getsize(path)}"
        )


def _too_large(declared: int, stored: int) -> bool:
    return declared > _ALWAYS_FINE and (declared > _MOST_BYTES or declared > _MOST_EXPANSION * stored)


def _read_h5(file: Any, path: str) -> tuple[Any, str]:
    """Check an HDF5 file; return its config and the version of Keras."""
    with h5py.File(file, "r") as opened:
        _check_h5(opened, os.path.getsize(path), path)
        if "model_config" not in opened.attrs:
            raise InputError(f"{path} holds weights only; give the whole model, as model.save writes it")
        return json.loads(_text(opened.attrs["model_config"])), _text(opened.attrs.get("keras_version", ""))


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _check_h5(opened: Any, stored: int, what: str) -> None:
    """Refuse links and data in other files, and datasets that declare more than the file can hold."""
    declared, pending = 0, [opened]
    seen = set()
    while pending:
        group = pending.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise InputError(f"{what} is not safe to open: {group.name}/{name} is a link to {link.filename!r}")
            if isinstance(link, h5py.SoftLink):  # what it links to has a place of its own
                continue
            item = group[name]
            if isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise InputError(f"{what} is not safe to open: {item.name} has its data in another file")
                declared += item.nbytes
            elif h5py.h5o.get_info(item.id).addr not in seen:
                seen.add(h5py.h5o.get_info(item.id).addr)
                pending.append(item)
    if _too_large(declared, stored):
        raise InputError(f"{what} is not safe to open: it declares {declared} bytes, but has {stored}")


def _entries(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object of a config, outer ones first."""
    pending = collections.deque([config])
    while pending:
        value = pending.popleft()
        if isinstance(value, dict):
            yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _called(entry: dict[str, Any]) -> str:
    inner = entry.get("config")
    name = inner.get("name") if isinstance(inner, dict) else None
    return f"layer {name!r}" if name else "a layer"


def _refuse_lambda(entry: dict[str, Any], path: str, *, allow_lambda: bool) -> None:
    if entry.get("class_name") in _LAMBDAS and not allow_lambda:
        raise InputError(
            f"{path} holds Python code in {_called(entry)} (Lambda), which would run here; "
            "--allow_unsafe_deserialization lets it, if you trust the file"
        )


def _refuse_opening(entry: dict[str, Any], path: str) -> None:
    kind, inner = str(entry.get("class_name")), entry.get("config")
    if kind in _OPENING:
        raise InputError(f"{path} has a {kind} ({_called(entry)}), which opens other files; export it to a SavedModel")
    files = [inner[key] for key in _VOCABULARIES if isinstance(inner.get(key), str)] if isinstance(inner, dict) else []
    if files:
        raise InputError(f"{path} has a {kind} ({_called(entry)}) that reads the file {files[0]!r}, outside of it")


def _refuse_module(entry: dict[str, Any], path: str, known: Collection[str]) -> None:
    """Refuse names that Keras 2 would import from anywhere."""
    module, kind, inner = entry.get("module"), entry.get("class_name"), entry.get("config")
    if not isinstance(module, str) or "class_name" not in entry:
        return
    name = str(inner if kind == "function" and isinstance(inner, str) else kind)
    if {name, entry.get("registered_name")} & set(known):
        return
    package, *rest = module.split(".")
    trusted = package in _PACKAGES
    if kind == "function":
        harmful = package == "builtins" and hasattr(builtins, name) and name not in _HARMLESS_BUILTINS
        trusted = trusted and not harmful and not set(rest) & set(_NOT_FOR_MODELS)
    if not trusted:
        raise InputError(
            f"{path} names {module}.{name}, which is no part of a Keras model; register it with Keras in Python and "
            "convert the model there"
        )


def _refuse_function(entry: dict[str, Any], path: str) -> None:
    inner = entry.get("config")
    if entry.get("class_name") not in _FUNCTION_LAYERS or not isinstance(inner, dict):
        return
    function = str(inner.get("function", ""))
    module, _, last = function.rpartition(".")
    if (module and module not in _FUNCTIONS) or last.startswith(_HARMFUL):
        raise InputError(f"{path} calls tf.{function} in {_called(entry)}, which may do more than compute")
