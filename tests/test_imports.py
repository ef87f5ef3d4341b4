"""Imports point one way, and TensorFlow is imported in its rooms only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tf_bnfold"

VALUES = {"errors", "options", "outcome", "reasons", "version"}
ROOMS = {"algebra", "graph", "fold", "formats", "verify"}

# What each module, or room, may import of the package. A room may import itself.
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "reasons": set(),
    "errors": set(),
    "options": set(),
    "outcome": {"reasons"},
    "algebra": {"errors", "reasons"},
    "graph": {"algebra", *VALUES},
    "fold": {"algebra", "graph", *VALUES},
    "formats": {"extras", "flatbuffer", "graph", "parent", *VALUES},
    "verify": {"formats", "graph", *VALUES},
    "gpu": VALUES,
    "report": {"gpu", *VALUES},
    "compare": {"report", *VALUES},
    "explain": {"graph", "report", *VALUES},
    "page": {"explain", "ranges", "report", *VALUES},
    "table": {"compare", "report", *VALUES},
    "clock": set(),
    "memory": set(),
    "extras": set(),
    "parent": set(),
    "targets": {"extras", *VALUES},
    "outputs": VALUES,
    "flatbuffer": {"gpu"},
    "flag_values": VALUES,
    "flag_groups": VALUES,
    "flags": {"flag_groups", "flag_values", "gpu", "quantisation", *VALUES},
    "quantisation": VALUES,
    "ranges": {"fold", "report", *VALUES},
    "measurements": {"report", "verify"},
    "pipeline": {
        *("clock", "compare", "explain", "export_stage", "gpu", "measurements", "outputs", "quantisation", "ranges"),
        *("memory", "report", "targets"),
        *("tflite_stage", *VALUES, *ROOMS),
    },
    "tflite_stage": {
        *("clock", "flatbuffer", "formats", "gpu", "outputs", "quantisation", "report", "verify", *VALUES),
    },
    "export_stage": {"clock", "formats", "outputs", "targets", *VALUES},
    "onnx_stage": {"clock", "formats", "report", "verify", *VALUES},
    "worker": {"clock", "parent", "report", *VALUES},  # it loads the pipeline, and so TensorFlow, when it runs
    "runner": {"outputs", "report", "targets", "worker", *VALUES},
    "cli": {"compare", "flags", "report", "runner", "table", "targets", "worker", *VALUES},
    "__main__": {"cli"},
    "api": {"fold", "formats", "graph", "pipeline", "report", "targets", *VALUES},
    "lite": VALUES,
    "__init__": {"api", "lite", "report", *VALUES},
}
MAY_IMPORT_TENSORFLOW = {"graph", "formats", "verify"}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(source: Path) -> str:
    return source.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything that is imported anywhere in the file, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(source: Path, code: str) -> list[str]:
    """Return what the file imports against the rules."""
    here, found = room(source), []
    for name in imports(ast.parse(code)):
        top, *rest = name.split(".")
        if top == "tf_bnfold" and rest and rest[0] not in MAY_IMPORT[here] | {here}:
            found.append(f"{here} imports {name}")
        elif top == "tensorflow" and here not in MAY_IMPORT_TENSORFLOW:
            found.append(f"{here} imports TensorFlow")
        elif here == "algebra" and top not in {"tf_bnfold", "numpy", *sys.stdlib_module_names}:
            found.append(f"algebra imports {name}, which is not numpy")
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(source):
    assert faults(source, source.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("formats/tflite.py", "from tf_bnfold.fold import fold_graph"),
        ("graph/view.py", "def f():\n    from tf_bnfold import fold"),
        ("cli.py", "import tf_bnfold.pipeline"),
        ("cli.py", "import tensorflow as tf"),
        ("fold/laws.py", "from tensorflow.core.framework import graph_pb2"),
        ("algebra/affine.py", "import scipy"),
    ],
)
def test_a_planted_fault_is_found(place, code):
    assert len(faults(PACKAGE / place, code)) == 1


def test_every_folder_is_a_package_so_that_pip_installs_it():
    assert [folder for folder in {source.parent for source in SOURCES} if not (folder / "__init__.py").exists()] == []


def test_every_module_has_a_rule_and_every_rule_a_module():
    assert set(MAY_IMPORT) == {room(source) for source in SOURCES}


@pytest.mark.parametrize("module", ["tf_bnfold", "tf_bnfold.cli", "tf_bnfold.worker"])
def test_importing_the_parent_side_does_not_import_tensorflow(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
