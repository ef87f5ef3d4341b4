"""What the fold asks of a graph, in one value: its nodes, constants and shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from tf_bnfold.graph.constants import Constants
from tf_bnfold.graph.graph import Graph, GraphDef
from tf_bnfold.graph.shapes import Shapes

__all__ = ["GraphDef", "View"]


@dataclasses.dataclass(frozen=True)
class View:
    """A graph with its constants and shapes."""

    graph: Graph
    constants: Constants
    shapes: Shapes

    @staticmethod
    def of(graph_def: GraphDef, outputs: Iterable[str] | None, inputs: Iterable[str] = ()) -> View:
        """View a GraphDef; see `Graph`.

        Raises:
          InputError: A name is given twice or does not exist, or the graph has a cycle that is no loop.
        """
        graph = Graph(graph_def, outputs, inputs)
        constants = Constants(graph)
        return View(graph, constants, Shapes(graph, constants))

    def anew(self) -> View:
        """The same graph, when edits have made its shapes others."""
        return View(self.graph, self.constants, Shapes(self.graph, self.constants))
