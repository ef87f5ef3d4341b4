"""Keras files that are refused: rows of docs/errors.md, by their first column."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import h5py

Args = list[str]


def archive(config: Any = None, **members: bytes) -> bytes:
    """Return a .keras archive; its config is left out where there is none."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name.replace("__", "/"), content)
        if config is not None:
            opened.writestr("config.json", json.dumps(config))
    return file.getvalue()


def hdf5() -> bytes:
    """Return an HDF5 file of weights."""
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened["weights"] = [1.0]
    return file.getvalue()


def layer(kind: str, **config: Any) -> Any:
    """Return the config of a model with one layer."""
    return {"class_name": "Sequential", "config": {"layers": [{"class_name": kind, "config": config}]}}


def given(name: str, content: bytes) -> Callable[[Any], Args]:
    """Write the file, and return a command line."""
    return lambda p: [f"--keras_model={p.file(name, content)}", f"--tflite={p.folder / 'out.tflite'}"]


KERAS: Mapping[str, Callable[[Any], Args]] = {
    "a .keras file that is missing": lambda p: ["--keras_model=no.keras", "--tflite=out.tflite"],
    "a Keras file of another suffix": given("net.zip", archive({})),
    "a .keras file that is no archive": given("net.keras", b"no archive"),
    "a .keras file without a config": given("net.keras", archive(metadata=b"{}")),
    "a .keras file of weights": given("net.keras", archive(**{"model.weights.h5": hdf5()})),
    "a .keras file with a member outside": given("net.keras", archive({}, **{"..__secret": b""})),
    "a .keras file that would fill the memory": given("net.keras", archive({}, bomb=bytes(1 << 27))),
    "a .keras file with a Lambda": given("net.keras", archive(layer("Lambda", name="twice"))),
    "a .keras file with a layer that opens files": given("net.keras", archive(layer("TFSMLayer", name="other"))),
    "a .keras file with a vocabulary elsewhere": given(
        "net.keras", archive(layer("StringLookup", name="words", vocabulary="/etc/passwd"))
    ),
    "an .h5 file that is none": given("net.h5", b"no HDF5"),
    "an .h5 file of weights": given("net.h5", hdf5()),
}
