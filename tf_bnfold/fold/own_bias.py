"""The bias of a linear op goes right behind it, over the Squeeze, Reshape, ExpandDims or BatchToSpaceND between.

TFLite computes a bias right behind a linear op as a part of it. Behind another op it stays an ADD wherever the
converter does not know the shape: behind a Conv1D of free length, behind a Dense on a sequence with a free batch.
"""

from __future__ import annotations

from tf_bnfold.fold import edits, sinks
from tf_bnfold.fold.elements import Element
from tf_bnfold.fold.route import Placed, Scene
from tf_bnfold.fold.sites import ALIASES, Site, is_own_bias
from tf_bnfold.fold.up import up
from tf_bnfold.graph.graph import Use
from tf_bnfold.outcome import Kind
from tf_bnfold.reasons import Refusal


def advance(scene: Scene) -> tuple[str, ...]:
    """Put each linear op's own bias right behind it, where nothing else reads what lies between.

    Returns:
      The names that these biases had.
    """
    apart = [element for element in scene.elements.values() if _is_apart(scene, element)]
    return tuple(element.node.name for element in apart if _advance(scene, element))


def _is_apart(scene: Scene, element: Element) -> bool:
    """Whether an element is the bias of a linear op with more than aliases between, and may move."""
    if element.node in scene.kept or not is_own_bias(scene.view, element):
        return False
    producer = element.data.node
    while producer.op in ALIASES:
        producer = producer.inputs[0].node
    return not sinks.is_sink_op(producer)


def _advance(scene: Scene, element: Element) -> bool:
    site = Site((element,), (element.node,), Kind.AFFINE, element.axis, element.affine)
    if edits.own_controls(scene, site):  # an Identity would have to wait in its place, one op more
        return False
    route = up(scene, Use(element.node, element.port), Placed(element.affine, element.axis))
    if isinstance(route, Refusal):
        return False
    edits.apply(scene, route)
    edits.bypass(scene, site, carries_value=True)
    return True
