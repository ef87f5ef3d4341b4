"""The functions of the package, as `tf_bnfold` re-exports them. All of them work in the calling process."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

from tf_bnfold import pipeline
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.objects import export_object
from tf_bnfold.graph.view import GraphDef
from tf_bnfold.options import Options, Request
from tf_bnfold.report import Report
from tf_bnfold.targets import KERAS_SUFFIXES

_GRAPH_SUFFIXES = (".pb", ".pbtxt")
_ONNX_SUFFIX = ".onnx"


@dataclasses.dataclass(frozen=True)
class FoldResult:
    """What folding a GraphDef gives.

    Attributes:
      graph_def: The folded graph: every name that survives has the value that it had.
      report: What became of each batch norm and affine; `report.result` is deterministic.
    """

    graph_def: GraphDef
    report: Report


def fold_graph_def(
    graph_def: GraphDef,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    options: Options | None = None,
) -> FoldResult:
    """Fold every batch norm and affine of a frozen graph that can be folded exactly.

    Args:
      graph_def: The graph, with constants in place of variables; it is not changed.
      outputs: Names of nodes or tensors ("conv", "conv:0") that keep their name and value. By default every node
        that nothing reads. Nodes that lead to no output are kept, and count as readers.
      inputs: Names of nodes or tensors that are fed, beside the placeholders.
      options: Of these `keep` and `shared_weights` count here.

    Returns:
      The folded graph and the report.

    Raises:
      FoldError: The graph is broken, or a name is not in it, exit code 2 of the command; or an option is wrong, 1.
    """
    chosen = options or Options()
    folding = fold_graph(
        graph_def,
        outputs,
        inputs or (),
        chosen.keep,
        chosen.shared_weights,
        chosen.quantize,
    )
    return FoldResult(folding.graph_def, Report(pipeline.result_of(graph_def, folding)))


def fold_saved_model(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    options: Options | None = None,
) -> Report:
    """Fold a model, verify the result and write it as a SavedModel.

    Args:
      model: What `convert` takes.
      output: Folder to write; by default none is written, and there is only the report.
      options: How to read, fold, verify and write.

    Returns:
      The report.

    Raises:
      FoldError: Its class and `exit_code` tell what failed; nothing is written then.
    """
    chosen = options or Options()
    target = "" if output is None else os.fspath(output)
    chosen = chosen if target else dataclasses.replace(chosen, dry_run=True)
    return _run(model, Request(output_saved_model=target, options=chosen))


def convert(
    model: Any,
    output: str | os.PathLike[str],
    options: Options | None = None,
) -> Report:
    """Fold a model, verify the result, convert it, verify that, and write the .tflite or .onnx.

    Args:
      model: A path: the folder of a SavedModel, the file of a frozen graph, which ends in .pb or .pbtxt, or the file of
        a Keras model, which ends in .keras, .h5 or .hdf5. Or an object: a Keras model, a concrete function, a list of
        these, or a tf.Module whose tf.functions have an input_signature. Whatever is a string or has `__fspath__` is a
        path; a Keras model is known by its class, a concrete function by its type, and what is left is a tf.Module.
      output: File to write: an .onnx where it ends so, else a .tflite.
      options: How to read, fold, verify and convert.

    Returns:
      The report.

    Raises:
      FoldError: Its class and `exit_code` tell what failed; nothing is written then.
    """
    file, chosen = os.fspath(output), options or Options()
    is_onnx = file.endswith(_ONNX_SUFFIX)
    return _run(model, Request(onnx=file, options=chosen) if is_onnx else Request(tflite=file, options=chosen))


def _run(model: Any, request: Request) -> Report:
    """Run the request on a path or an object."""
    if not isinstance(model, str | os.PathLike):
        return pipeline.run(request, export=functools.partial(export_object, model))
    path = os.fspath(model)
    suffix = "" if os.path.isdir(path) else os.path.splitext(path)[1]
    if suffix in _GRAPH_SUFFIXES:
        return pipeline.run(dataclasses.replace(request, frozen_graph=path))
    if suffix in KERAS_SUFFIXES:
        return pipeline.run(dataclasses.replace(request, keras_model=path))
    return pipeline.run(dataclasses.replace(request, saved_model=path))
