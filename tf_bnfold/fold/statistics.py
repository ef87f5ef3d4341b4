"""Statistics that the graph computes from its input: of the batch, as batch norms in training do, or of each sample."""

from __future__ import annotations

from collections.abc import Iterator

from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.view import View

_SCALING = frozenset({"Mul", "RealDiv", "Div"})
# What makes the factor `gamma / sqrt(variance + epsilon)` of a variance.
_BEHIND_VARIANCE = frozenset({
    "Mul", "RealDiv", "Div", "Add", "AddV2", "Maximum", "Rsqrt", "Sqrt", "Pow", "Reciprocal", "Inv", "Identity", "Cast",
    "Reshape", "Squeeze", "ExpandDims",
})  # fmt: skip
# What a variance is the mean of.
_BEFORE_MEAN = frozenset({"SquaredDifference", "Square", "Sub", "Mul", "Identity", "StopGradient", "Cast"})
_MOST_LOOKED_AT = 32


def normalised_port(view: View, node: Node) -> int | None:
    """The input of a Mul or RealDiv that the other input normalises by its variance over the batch, or None.

    So a batch norm in training is written out: `x * (rsqrt(variance(x) + epsilon) * gamma) + ...`, or with `x - mean`.
    """
    if node.op not in _SCALING:
        return None
    for port in (0, 1) if node.op == "Mul" else (0,):
        factor = node.inputs[1 - port]
        if factor.node.op not in _BEHIND_VARIANCE:
            continue
        data = node.inputs[port].node
        normalised = {data, data.inputs[0].node} if data.op == "Sub" and data.inputs else {data}
        if any(_is_of(mean, normalised) for mean in _means(factor) if _goes_over_batch(view, mean)):
            return port
    return None


def are_of_each_sample(view: View, node: Node) -> bool:
    """Whether a fused batch norm in training mode is a layer norm: Keras 2 makes channels of the samples for that.

    Source: https://github.com/keras-team/tf-keras, layers/normalization/layer_normalization.py
    """
    data = node.inputs[0]
    shape = view.shapes.of(data)
    return data.node.op == "Reshape" and shape is not None and len(shape) == 4 and (shape[0], shape[3]) == (1, 1)


def _means(factor: Tensor) -> Iterator[Node]:
    """The means that a factor is computed from."""
    pending, seen = [factor.node], set[Node]()
    while pending and len(seen) < _MOST_LOOKED_AT:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "Mean":
            yield node
        elif node.op in _BEHIND_VARIANCE:
            pending.extend(tensor.node for tensor in node.inputs)


def _goes_over_batch(view: View, mean: Node) -> bool:
    axes, rank = view.shapes.ints(mean.inputs[1]), view.shapes.rank(mean.inputs[0])
    return axes is not None and rank is not None and rank > 1 and 0 in {axis % rank for axis in axes}


def _is_of(mean: Node, normalised: set[Node]) -> bool:
    """Whether a mean is one of squares of one of these values."""
    pending, seen = [mean.inputs[0].node], set[Node]()
    while pending and len(seen) < _MOST_LOOKED_AT:
        node = pending.pop()
        if node in normalised:
            return True
        if node not in seen and node.op in _BEFORE_MEAN:
            seen.add(node)
            pending.extend(tensor.node for tensor in node.inputs)
    return False
