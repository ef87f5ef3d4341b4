"""The ranges of weights, channel by channel: what a quantiser that knows one scale per tensor suffers from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tf_bnfold.algebra.affine import Vector
from tf_bnfold.fold.sinks import is_sink_op, sink_of
from tf_bnfold.graph import functions
from tf_bnfold.graph.view import GraphDef, View
from tf_bnfold.reasons import Refusal


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of one linear op.

    Attributes:
      name: The op.
      op: Its type.
      function: The library function that it is in; "" for the main graph.
      ranges: float64 [output channels]: the largest |weight| of each; None where the weights are not constant.
    """

    name: str
    op: str
    function: str
    ranges: Vector | None


def weight_ranges(graph_def: GraphDef, inputs: Sequence[str] = ()) -> tuple[Weights, ...]:
    """Look at the weights of every linear op, in the order of the graph, which folding keeps.

    Args:
      graph_def: The graph.
      inputs: Names of nodes or tensors that are fed beside the placeholders.

    Returns:
      One entry per linear op, those of functions behind those of the main graph.
    """
    found = _of_graph(graph_def, inputs, "")
    for function, body in functions.bodies(graph_def, inputs):
        found += _of_graph(body.graph_def, (), function.signature.name)
    return tuple(found)


def _of_graph(graph_def: GraphDef, inputs: Sequence[str], function: str) -> list[Weights]:
    if not any(map(is_sink_op, graph_def.node)):
        return []
    view = View.of(graph_def, None, inputs)
    found = []
    for node in (node for node in view.graph.nodes.values() if is_sink_op(node)):
        sink = sink_of(view, node, behind=True)
        weights = None if isinstance(sink, Refusal) else view.constants.raw(sink.weights)
        ranges = None
        if weights is not None and not isinstance(sink, Refusal):
            ranges = sink.linear.peak(weights.astype(np.float64))
        found.append(Weights(node.name, node.op, function, ranges))
    return found
