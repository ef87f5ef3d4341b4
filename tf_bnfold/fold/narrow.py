"""A value that a wide dtype holds goes back through a Cast only where the narrow one is to hold it anyway.

float32 holds 1e5 and float16 does not. So an affine that is computed in float32, behind a Cast from float16, goes into
a float16 op only where all that reads it casts it to float16, as Keras' mixed_float16 does: Conv2D - Cast - Mul - Add -
Cast.
"""

from __future__ import annotations

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.fold.route import Route, Touch
from tf_bnfold.fold.sites import ALIASES, Site
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Graph, Node, Tensor
from tf_bnfold.reasons import Reason, Refusal


def refuse_narrower(graph: Graph, site: Site, affine: Affine, route: Route) -> Refusal | None:
    """Why a route up from a site may make a value infinite in a narrower dtype, or None when it can't.

    Args:
      graph: The graph.
      site: The site.
      affine: What the route takes of it.
      route: The edits.
    """
    for cast in [edit.node for edit in route if isinstance(edit, Touch) and edit.node.op == "Cast"]:
        narrow, wide = attributes.value(cast, "SrcT"), attributes.value(cast, "DstT")
        if not _holds_more(wide, narrow) or (affine is site.affine and _comes_back(graph, cast, site, narrow)):
            continue
        names = [attributes.numpy_dtype(dtype).name for dtype in (wide, narrow)]
        return Refusal(Reason.DTYPE, cast.name, f"{names[1]} may not hold what {names[0]} does")
    return None


def _comes_back(graph: Graph, cast: Node, site: Site, narrow: int) -> bool:
    """Whether a site reads a Cast from a dtype, and all its readers cast what it gives to one that holds no more."""
    source = site.first.data.node
    while source.op in ALIASES:
        source = source.inputs[0].node
    uses = graph.uses(Tensor(site.output, 0))
    return (
        source is cast
        and bool(uses)
        and not graph.is_fetched(site.output)
        and all(use.node.op == "Cast" and _is_within(use.node, narrow) for use in uses)
    )


def _is_within(cast: Node, narrow: int) -> bool:
    dtype = attributes.value(cast, "DstT")
    return attributes.is_float(dtype) and not _holds_more(dtype, narrow)


def _holds_more(wide: int, narrow: int) -> bool:
    """Whether a dtype has a range of its own beyond another one; that of bfloat16 is float32's."""
    largest = [attributes.float_limits(dtype)[0] for dtype in (wide, narrow)]
    return largest[0] / 2 > largest[1]
