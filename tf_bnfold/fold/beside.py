"""Beside: an offset on one input of a sum goes up into another one, `(x + o) + y == x + (o + y)`.

Only constants that are there already take it, such as the bias of a convolution: an op more on the way of the other
input would make that way longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.channels import Law
from tf_bnfold.fold import transfer
from tf_bnfold.fold.ledger import cancels
from tf_bnfold.fold.route import AdaptConstant, After, Before, Edit, Placed, Route, Scene, SetFill, Touch
from tf_bnfold.fold.up import up
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Use
from tf_bnfold.reasons import Reason, Refusal


def beside(
    scene: Scene, node: Node, law: Law, arrived: Mapping[int, Placed], so_far: Iterable[Edit]
) -> Route | Refusal:
    """Find a bias before another input of a sum that takes the offsets which arrive, so that the sum's value stays.

    Args:
      scene: The graph and what its sinks hold.
      node: The sum.
      law: Its law.
      arrived: The affines on its inputs.
      so_far: What the way to the sum changes; none of that may change once more.
    """
    pushed = transfer.push(node, law, 0, arrived)
    if isinstance(pushed, Refusal):
        return pushed
    if not pushed.affine.has_unit_scale:
        return Refusal(Reason.NEEDS_UNIT_SCALE, node.name)
    # Where the data cancels a large offset, this sum would round at the offset's magnitude.
    refusal = cancels(pushed.affine, attributes.dtype(node), node.name)
    if refusal is not None:
        return refusal
    busy = set(_changed(so_far)) | scene.waiting.keys()
    refusal = Refusal(Reason.MIXED_BRANCHES, node.name)
    for port in law.ports:
        if port in arrived:
            continue
        before = transfer.pull(scene.view, node, law, port, 0, pushed)
        if before is None or isinstance(before, Refusal):
            continue
        offset = Affine.of(1.0, law.signs.get(port, 1) * before.affine.offset)
        route = up(scene, Use(node, port), Placed(offset, before.axis))
        if isinstance(route, Refusal) or any(isinstance(edit, After) for edit in route):
            continue
        if busy.isdisjoint(_changed(route)):
            return route
    return refusal


def _changed(edits: Iterable[Edit]) -> Iterable[Node]:
    """The nodes whose value or constants the edits change."""
    for edit in edits:
        if isinstance(edit, (Touch, SetFill, AdaptConstant)):
            yield edit.node
        elif isinstance(edit, (After, Before)):
            yield edit.sink.node
            if isinstance(edit, Before) and edit.bias is not None:
                yield from (edit.bias.node, *edit.bias.between)
