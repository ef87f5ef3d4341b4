"""Libraries that only some runs need, and how to get them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

# Modules by extra of setup.py.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("tf2onnx", "onnx", "onnxruntime"),
    "keras2": ("tf_keras",),
    "report": ("jinja2",),
}


def missing(extra: str) -> str:
    """Say what an extra lacks and how to install it, in a clause for an error; "" if all of it is installed."""
    lacks = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    verb = "is" if len(lacks) == 1 else "are"
    return f"{' and '.join(lacks)} {verb} not installed: pip install 'tf_bnfold[{extra}]'" if lacks else ""
