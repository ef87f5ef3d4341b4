"""The fold: find the sites, decide each one, write the new constants."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from tf_bnfold.fold import decide
from tf_bnfold.fold.ledger import Ledger
from tf_bnfold.fold.route import Scene
from tf_bnfold.fold.sites import find_elements, find_sites
from tf_bnfold.graph.export import to_graph_def
from tf_bnfold.graph.view import GraphDef, View
from tf_bnfold.outcome import Outcome


@dataclasses.dataclass(frozen=True)
class Folding:
    """What a fold gives.

    Attributes:
      graph_def: The folded graph.
      outcomes: What became of each batch norm and affine, in topological order.
    """

    graph_def: GraphDef
    outcomes: tuple[Outcome, ...]


def fold_graph(
    graph_def: GraphDef, outputs: Sequence[str] | None, inputs: Sequence[str] = (), keep: str = ""
) -> Folding:
    """Fold every batch norm and affine of a frozen graph that can be folded exactly.

    Args:
      graph_def: The graph; it is not changed.
      outputs: Names of nodes or tensors that keep their name and value; None for all nodes that nothing reads.
      inputs: Names of nodes or tensors that are fed beside the placeholders.
      keep: Regular expression; a batch norm is left alone when it is found in the name of one of its nodes.

    Returns:
      The folded graph, which has the same values at every name that survives, and what became of each site.

    Raises:
      InputError: The graph is broken, or a name is not in it.
    """
    view = View.of(graph_def, outputs, inputs)
    elements = find_elements(view)
    sites = find_sites(view, elements)
    kept = frozenset(node for node in view.graph.nodes.values() if keep and re.search(keep, node.name))
    scene = Scene(view, Ledger(view), elements, {node: site for site in sites for node in site.nodes}, kept)
    outcomes = [decide.settle(scene, site) for site in sites]
    scene.ledger.settle()
    return Folding(to_graph_def(view.graph), tuple(outcomes))
