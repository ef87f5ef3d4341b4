"""The command for Bazel, in a folder of its own: Python puts the folder of the main file first on its path."""

from __future__ import annotations

import importlib.util
import sys

missing = [name for name in ("absl", "numpy", "tensorflow", "ai_edge_litert") if not importlib.util.find_spec(name)]
if missing:
    sys.exit(
        f"tf_bnfold: error: {sys.executable}, Bazel's Python, has no {', '.join(missing)}: register one that has, with "
        "tf_bnfold_python, or give them as deps of a tf_bnfold_tool (docs/android.md)"
    )

from tf_bnfold.cli import main  # noqa: E402

sys.exit(main())
