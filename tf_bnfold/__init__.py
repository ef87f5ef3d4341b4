"""tf_bnfold folds the batch norms of a TensorFlow graph into the linear ops beside them and converts it for mobile.

Importing this module does not import TensorFlow; the first use of a function does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tf_bnfold.errors import FoldError
from tf_bnfold.options import Options
from tf_bnfold.report import Report
from tf_bnfold.version import __version__

if TYPE_CHECKING:
    from tf_bnfold import lite
    from tf_bnfold.api import FoldResult, convert, fold_graph_def, fold_saved_model

__all__ = [
    "FoldError",
    "FoldResult",
    "Options",
    "Report",
    "__version__",
    "convert",
    "fold_graph_def",
    "fold_saved_model",
    "lite",
]

_LAZY = ("FoldResult", "convert", "fold_graph_def", "fold_saved_model")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module("tf_bnfold.api"), name)
    if name == "lite":
        return importlib.import_module("tf_bnfold.lite")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
