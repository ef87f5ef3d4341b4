"""Laws of products of two matrices: both computed, or one constant, which then makes a sink on other axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tf_bnfold.algebra.channels import ChannelMap, Joins, Law, Needs
from tf_bnfold.fold.laws.common import Answer, unknown_shape
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.shapes import geometry
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal


def matrix_product(view: View, node: Node) -> Answer:
    """Two matrices: the product has the rows of the first one and the columns of the second one."""
    ranks = [view.shapes.rank(tensor) for tensor in node.inputs]
    if len(ranks) != 2 or ranks[0] is None or ranks[1] is None or min(ranks[0], ranks[1]) < 2:
        return unknown_shape(node)
    flags = ("transpose_a", "transpose_b") if node.op == "MatMul" else ("adj_x", "adj_y")
    batch = [f"batch {i}" for i in range(max(ranks[0], ranks[1]) - 2)]
    ends = [["row", "inner"], ["inner", "column"]]
    terms = [
        batch[len(batch) - (rank - 2) :] + (end[::-1] if attributes.value(node, flag) else end)
        for rank, end, flag in zip((ranks[0], ranks[1]), ends, flags, strict=True)
    ]
    return _product(view, node, terms, [*batch, "row", "column"])


def einsum(view: View, node: Node) -> Answer:
    """Two values: an axis of the product is that of the same label in one of them."""
    ranks = [view.shapes.rank(tensor) for tensor in node.inputs]
    terms = geometry.einsum_terms(str(attributes.value(node, "equation")), ranks)
    if terms is None or len(terms) != 3 or any(len(set(term)) < len(term) for term in terms):
        return Refusal(Reason.NO_LAW, node.name, "an equation that is not known here")
    return _product(view, node, terms[:2], terms[2])


def _product(view: View, node: Node, factors: Sequence[Sequence[str]], product: Sequence[str]) -> Law:
    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        labels = list(factors[port])
        label = labels[axis_in] if axis_in is not None else product[axis_out or 0]
        if label not in labels or label not in product:
            return
        a_in, a_out = labels.index(label), list(product).index(label)
        size = view.shapes.dim(node.inputs[port], a_in)
        # Batch axes broadcast.
        if size is not None and size == view.shapes.dim(Tensor(node, output), a_out):
            yield ChannelMap(a_in, a_out, size, size)

    return Law(Needs.ZERO_OFFSET, (0, 1), (0,), maps, Joins.PRODUCT)
