"""The functions of the package, as `tf_bnfold` re-exports them. All of them work in the calling process."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from tf_bnfold import pipeline
from tf_bnfold.fold import fold_graph
from tf_bnfold.graph.view import GraphDef
from tf_bnfold.options import Options, Request
from tf_bnfold.report import Report

_GRAPH_SUFFIXES = (".pb", ".pbtxt")


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
      options: Of these `keep` counts here.

    Returns:
      The folded graph and the report.

    Raises:
      FoldError: The graph is broken, or a name is not in it; exit code 2 of the command.
    """
    chosen = options or Options()
    folding = fold_graph(graph_def, outputs, inputs or (), chosen.keep)
    return FoldResult(folding.graph_def, Report(pipeline.result_of(graph_def, folding)))


def fold_saved_model(
    saved_model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    options: Options | None = None,
) -> Report:
    """Fold a SavedModel, verify the result and write it as a SavedModel.

    Args:
      saved_model: Folder of the SavedModel.
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
    return pipeline.run(Request(os.fspath(saved_model), output_saved_model=target, options=chosen))


def convert(
    model: str | os.PathLike[str],
    tflite: str | os.PathLike[str],
    options: Options | None = None,
) -> Report:
    """Fold a model, verify the result, convert it, verify that, and write the .tflite.

    Args:
      model: Folder of a SavedModel, or file of a frozen graph, which ends in .pb or .pbtxt.
      tflite: File to write.
      options: How to read, fold, verify and convert.

    Returns:
      The report.

    Raises:
      FoldError: Its class and `exit_code` tell what failed; nothing is written then.
    """
    path = os.fspath(model)
    is_graph = path.endswith(_GRAPH_SUFFIXES) and not os.path.isdir(path)
    request = Request("" if is_graph else path, frozen_graph=path if is_graph else "", tflite=os.fspath(tflite))
    return pipeline.run(dataclasses.replace(request, options=options or Options()))
