"""Which nodes are affine in one input: fused batch norms, and arithmetic with a per-channel constant."""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.linear import Array
from tf_bnfold.fold import statistics
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.shapes import geometry
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal

_SCALES = frozenset({"Mul", "RealDiv", "Div"})
_ROOTS = frozenset({"Rsqrt", "Sqrt", "Pow"})
# A constant of several axes is looked into, whether one channel axis explains it, up to this size.
_LARGEST_LOOKED_INTO = 1 << 22


class Role(enum.Enum):
    """What an element does."""

    NORM = "a batch norm in one op"
    SCALE = "multiplies or divides by a constant"
    OFFSET = "adds or subtracts a constant"
    MIRROR = "subtracts the value from a constant"


class Element(NamedTuple):
    """One node that is affine in one input.

    Attributes:
      node: The node.
      port: The input that carries the value.
      role: What it does.
      axis: The channel axis, or None when it does the same to every channel.
      affine: The affine; the identity where `refusal` says why it is not known.
      is_scalar: Whether its constant is one number for more than one channel.
      rooted: Whether its scale comes from a root, as a batch norm's does.
      refusal: Why it is no affine here.
    """

    node: Node
    port: int
    role: Role
    axis: int | None
    affine: Affine
    is_scalar: bool = False
    rooted: bool = False
    refusal: Refusal | None = None

    @property
    def data(self) -> Tensor:
        """The tensor that it reads now."""
        return self.node.inputs[self.port]


def find_elements(view: View) -> dict[Node, Element]:
    """The elements of a graph, in topological order."""
    graph = view.graph
    candidates = [n for n in graph.nodes.values() if n.op in _READERS and not graph.is_removed(n)]
    candidates.sort(key=lambda n: n.order)
    found = {node: read_element(view, node) for node in candidates}
    return {node: element for node, element in found.items() if element is not None}


def read_element(view: View, node: Node) -> Element | None:
    """What a node does as an element, or None when it is none."""
    return None if node.op not in _READERS or view.graph.is_fed(node) else _READERS[node.op](view, node)


def _norm(view: View, node: Node) -> Element | None:
    """FusedBatchNorm, V2, V3: y = gamma * (x - mean) / sqrt(variance + epsilon) + beta.

    Source: op documentation of FusedBatchNormV3; an absent is_training means true.
    """

    def refuse(reason: Reason, detail: str = "") -> Element:
        return Element(node, 0, Role.NORM, None, Affine.identity(), refusal=Refusal(reason, node.name, detail))

    if (unknown := attributes.unknown(node)) is not None:
        return refuse(Reason.UNKNOWN_ATTRIBUTE, unknown)
    if attributes.value(node, "is_training"):
        return None if statistics.are_of_each_sample(view, node) else refuse(Reason.TRAINING_MODE)
    used = [i for i, uses in node.readers.items() if uses and i > 0] + [
        i for i in view.graph.fetched.get(node, ()) if i > 0
    ]
    if used:
        return refuse(Reason.STATISTICS_USED, f"output {min(used)}")
    gamma, beta, mean, variance = map(view.constants.value, node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        return refuse(Reason.PARAMETERS_NOT_CONSTANT)
    if not gamma.size == beta.size == mean.size == variance.size:
        return refuse(Reason.PARAMETERS_NOT_CONSTANT, "parameters of different sizes")
    epsilon = attributes.value(node, "epsilon")
    rank = len(str(attributes.value(node, "data_format") or "NHWC"))
    return _finished_norm(node, gamma, beta, mean, variance, epsilon, geometry.channel_axis(node, rank))


def _finished_norm(
    node: Node,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    epsilon: float,
    axis: int,
) -> Element:
    affine = Affine.from_batch_norm(gamma.ravel(), beta.ravel(), mean.ravel(), variance.ravel(), epsilon)
    refusal = None
    if not (affine.is_finite and np.maximum.reduce(variance, axis=None, initial=-np.inf) < np.inf):
        is_bad = not (np.isfinite(variance) & (variance + epsilon > 0)).all()
        refusal = Refusal(Reason.BAD_VARIANCE if is_bad else Reason.NOT_FINITE, node.name)
    return Element(node, 0, Role.NORM, axis, affine, rooted=True, refusal=refusal)


def _global_norm(view: View, node: Node) -> Element | None:
    """BatchNormWithGlobalNormalization(t, m, v, beta, gamma); gamma counts only with scale_after_normalization."""
    mean, variance, beta, gamma = (view.constants.value(t) for t in node.inputs[1:5])
    if attributes.value(node, "scale_after_normalization") is False and mean is not None:
        gamma = np.ones_like(mean)
    if gamma is None or beta is None or mean is None or variance is None:
        refusal = Refusal(Reason.PARAMETERS_NOT_CONSTANT, node.name)
        return Element(node, 0, Role.NORM, None, Affine.identity(), refusal=refusal)
    return _finished_norm(node, gamma, beta, mean, variance, attributes.value(node, "variance_epsilon"), 3)


def _bias_add(view: View, node: Node) -> Element | None:
    bias = view.constants.value(node.inputs[1])
    rank = view.shapes.rank(node.inputs[0])
    if bias is None or not bias.size or view.constants.is_constant(node.inputs[0]):
        return None
    if rank is None:
        refusal = Refusal(Reason.UNKNOWN_SHAPE, node.name)
        return Element(node, 0, Role.OFFSET, None, Affine.identity(), refusal=refusal)
    return _checked(Element(node, 0, Role.OFFSET, geometry.channel_axis(node, rank), Affine.of(1.0, bias)))


def _binary(view: View, node: Node) -> Element | None:
    """Add, Sub, Mul, RealDiv of a value and a constant."""
    constant_ports = [port for port in (0, 1) if view.constants.is_constant(node.inputs[port])]
    if not constant_ports and (port := statistics.normalised_port(view, node)) is not None:
        refusal = Refusal(Reason.TRAINING_MODE, node.name)
        return Element(node, port, Role.SCALE, None, Affine.identity(), rooted=True, refusal=refusal)
    if len(constant_ports) != 1 or not attributes.is_float(attributes.dtype(node)):
        return None
    port = 1 - constant_ports[0]
    if node.op in ("RealDiv", "Div") and port == 1:
        return None
    role = Role.SCALE if node.op in _SCALES else Role.OFFSET
    if node.op == "Sub" and port == 1:
        role = Role.MIRROR
    placed = _placed(view, node, node.inputs[port], node.inputs[constant_ports[0]])
    if placed is None:
        return None
    rooted = role is Role.SCALE and _comes_from_root(node.inputs[constant_ports[0]].node)
    if isinstance(placed, Refusal):
        if placed.reason is Reason.CHANNEL_AXIS and not rooted:
            return None  # a table of positions, which is nothing that could be folded
        return Element(node, port, role, None, Affine.identity(), rooted=rooted, refusal=placed)
    affine = _affine_of(node.op, role, placed.vector)
    return _checked(Element(node, port, role, placed.axis, affine, placed.is_scalar, rooted))


class _Place(NamedTuple):
    """Where a constant operand stands: its channel axis (None: one number throughout) and its vector."""

    axis: int | None
    vector: Array
    is_scalar: bool


def _affine_of(op: str, role: Role, vector: Array) -> Affine:
    if role is Role.MIRROR:
        return Affine.of(-1.0, vector)
    if role is Role.OFFSET:
        return Affine.of(1.0, -vector if op == "Sub" else vector)
    if op == "Mul":
        return Affine.of(vector, 0.0)
    with np.errstate(all="ignore"):
        return Affine.of(1 / vector, 0.0)


def _checked(element: Element) -> Element:
    if element.affine.is_finite:
        return element
    reason = Reason.BAD_VARIANCE if element.rooted else Reason.NOT_FINITE
    return element._replace(affine=Affine.identity(), axis=None, refusal=Refusal(reason, element.node.name))


def _placed(view: View, node: Node, data: Tensor, constant: Tensor) -> _Place | Refusal | None:
    """Where a constant operand stands; a refusal where it can't be told; None where nothing is known of it.

    The shapes are judged, never numpy's broadcasting: a constant that enlarges the value is refused.
    """
    shape = view.shapes.of(constant)
    if shape is None or None in shape or 0 in shape:
        return None
    sizes = [d for d in shape if d is not None]
    wide = [axis for axis, size in enumerate(sizes) if size != 1]
    rank = view.shapes.rank(data)
    if rank is None and sizes:
        return Refusal(Reason.UNKNOWN_SHAPE, node.name)
    shift = 0 if rank is None else rank - len(sizes)
    if shift < 0:
        return Refusal(Reason.ENLARGES, node.name)
    for axis in wide:
        size = view.shapes.dim(data, axis + shift)
        if size != sizes[axis]:
            return Refusal(Reason.UNKNOWN_SHAPE if size is None else Reason.ENLARGES, node.name)
    if len(wide) > 1 and int(np.prod(sizes)) > _LARGEST_LOOKED_INTO:
        return None
    value = view.constants.value(constant)
    if value is None:
        return None
    if not wide:
        return _Place(None, value.reshape(1), is_scalar=view.shapes.dim(data, -1) != 1)
    return _place(value, wide, shift) or Refusal(Reason.CHANNEL_AXIS, node.name, "it differs along several axes")


def _place(value: Array, wide: list[int], shift: int) -> _Place | None:
    if len(wide) == 1:
        return _Place(wide[0] + shift, value.reshape(-1), is_scalar=False)
    varying = [axis for axis in wide if (value != value.take([0], axis=axis)).any()]
    if len(varying) > 1:
        return None
    if not varying:
        return _Place(None, value.reshape(-1)[:1], is_scalar=False)
    vector = np.moveaxis(value, varying[0], 0).reshape(value.shape[varying[0]], -1)[:, 0]
    return _Place(varying[0] + shift, vector, is_scalar=False)


def _comes_from_root(node: Node) -> bool:
    pending, seen = [node], set[Node]()
    while pending:
        current = pending.pop()
        if current.op in _ROOTS:
            return True
        if current not in seen and len(seen) < 64:
            seen.add(current)
            pending.extend(t.node for t in current.inputs)
    return False


_READERS = {
    "FusedBatchNorm": _norm,
    "FusedBatchNormV2": _norm,
    "FusedBatchNormV3": _norm,
    "BatchNormWithGlobalNormalization": _global_norm,
    "BiasAdd": _bias_add,
    "Add": _binary,
    "AddV2": _binary,
    "Sub": _binary,
    "Mul": _binary,
    "RealDiv": _binary,
    "Div": _binary,
}
