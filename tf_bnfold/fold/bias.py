"""Find the bias of a linear op: the constant operand behind it that alone reads its value."""

from __future__ import annotations

from tf_bnfold.algebra.affine import Affine, Vector
from tf_bnfold.algebra.channels import Joins, Law
from tf_bnfold.fold import laws, transfer
from tf_bnfold.fold.ledger import unfit_constant
from tf_bnfold.fold.route import BiasPlace, Placed, Scene
from tf_bnfold.fold.sinks import Sink
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Refusal


def bias_behind(scene: Scene, sink: Sink, added: Vector) -> BiasPlace | None:
    """The constant of the sink's own bias, with `added` taken in, or None when there is no bias that only it uses."""
    view, graph = scene.view, scene.view.graph
    placed = Placed(Affine.of(1.0, added), sink.axis_out)
    node, between = sink.node, [sink.node]
    while not graph.is_fetched(node):
        uses = graph.uses(Tensor(node, 0))
        if len(uses) != 1 or uses[0].node in scene.kept:
            return None
        reader = uses[0]
        element = scene.elements.get(reader.node)
        if element is not None:
            is_bias = element.port == reader.port and reader.node.op in ("BiasAdd", "Add", "AddV2")
            if not is_bias or element.refusal is not None or reader.node in scene.waiting:
                return None
            return _added(view, reader.node, 1 - element.port, placed, tuple(between))
        law = laws.law_of(view, reader.node)
        if isinstance(law, Refusal) or not _is_plain(law):
            return None
        if law.needs.broken_by(placed.affine) is not None:
            return None
        pushed = transfer.push(reader.node, law, 0, {reader.port: placed})
        if isinstance(pushed, Refusal):
            return None
        node, placed = reader.node, pushed
        between.append(node)
    return None


def _is_plain(law: Law) -> bool:
    """Whether an op has one value in and one out."""
    return law.joins is Joins.EACH and len(law.ports) == len(law.outputs) == 1 and law.fill is None


def _added(view: View, node: Node, port: int, placed: Placed, between: tuple[Node, ...]) -> BiasPlace | None:
    value = view.constants.value(node.inputs[port])
    rank = view.shapes.rank(Tensor(node, 0))
    if value is None or rank is None:
        return None
    ends = 0 if node.op == "BiasAdd" or placed.axis is None else rank - 1 - placed.axis
    new = value + placed.affine.offset.reshape((-1,) + (1,) * ends)
    if (
        new.size > max(value.size, placed.affine.channels)
        or unfit_constant(new, attributes.dtype(node), node.name) is not None
    ):
        return None
    return BiasPlace(node, port, new, between)
