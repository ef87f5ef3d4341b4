"""The table of laws: which ops an affine may pass, on which axes and under which condition.

An op that is not in the table is refused, and so is an op with an attribute that it does not know.
"""

from __future__ import annotations

from tf_bnfold.algebra.channels import Joins, Law, Needs
from tf_bnfold.fold.laws import places, products, values
from tf_bnfold.fold.laws.common import Rule, all_inputs, elementwise, joined
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal

_PASS = elementwise(Needs.NOTHING)
_RECTIFY = elementwise(Needs.ORDER | Needs.ZERO_OFFSET)

_TABLE: dict[str, Rule] = {
    "Identity": _PASS,
    "IdentityN": places.identity_n,
    "StopGradient": _PASS,
    "PreventGradient": _PASS,
    "Snapshot": _PASS,
    "CheckNumerics": _PASS,
    "EnsureShape": _PASS,
    "Relu": _RECTIFY,
    "LeakyRelu": _RECTIFY,
    "Abs": _RECTIFY,
    "Cast": values.cast,
    "Neg": joined(Needs.NOTHING, all_inputs, Joins.SUM, {0: -1}),
    "Add": joined(Needs.NOTHING, all_inputs, Joins.SUM),
    "AddV2": joined(Needs.NOTHING, all_inputs, Joins.SUM),
    "AddN": joined(Needs.NOTHING, all_inputs, Joins.SUM),
    "Sub": joined(Needs.NOTHING, all_inputs, Joins.SUM, {1: -1}),
    "BiasAdd": values.bias_add,
    "Mul": values.mul,
    "RealDiv": values.real_div,
    "MatMul": products.matrix_product,
    "BatchMatMul": products.matrix_product,
    "BatchMatMulV2": products.matrix_product,
    "BatchMatMulV3": products.matrix_product,
    "Einsum": products.einsum,
    "Maximum": joined(Needs.ORDER, all_inputs, Joins.EACH),
    "Minimum": joined(Needs.ORDER, all_inputs, Joins.EACH),
    "ClipByValue": joined(Needs.ORDER, all_inputs, Joins.EACH),
    "Select": joined(Needs.NOTHING, lambda node: (1, 2), Joins.EACH),
    "SelectV2": joined(Needs.NOTHING, lambda node: (1, 2), Joins.EACH),
    "MaxPool": values.pool(Needs.ORDER),
    "MaxPool3D": values.pool(Needs.ORDER),
    "AvgPool": values.pool(Needs.NOTHING),
    "AvgPool3D": values.pool(Needs.NOTHING),
    "Mean": values.reduce(Needs.NOTHING),
    "Sum": values.reduce(Needs.ZERO_OFFSET),
    "Max": values.reduce(Needs.ORDER),
    "Min": values.reduce(Needs.ORDER),
    "Cumsum": values.cumsum,
    "ResizeNearestNeighbor": values.resize,
    "ResizeBilinear": values.resize,
    "ResizeBicubic": values.resize,
    "Reshape": places.reshape,
    "Squeeze": places.reshape,
    "ExpandDims": places.reshape,
    "Transpose": places.transpose,
    "Concat": places.concat,
    "ConcatV2": places.concat,
    "Split": places.split,
    "SplitV": places.split,
    "Pack": places.pack,
    "Unpack": places.unpack,
    "Slice": places.slices,
    "StridedSlice": places.slices,
    "Gather": places.gather,
    "GatherV2": places.gather,
    "Tile": places.tile,
    "BroadcastTo": places.broadcast_to,
    "ReverseV2": places.reverse,
    "Roll": places.roll,
    "DepthToSpace": places.depth_to_space,
    "SpaceToDepth": places.depth_to_space,
    "BatchToSpaceND": places.batch_to_space,
    "SpaceToBatchND": places.batch_to_space,
    "MirrorPad": places.mirror_pad,
    "Pad": places.pad,
    "PadV2": places.pad,
}


def law_of(view: View, node: Node) -> Law | Refusal:
    """The law of a node, or why no affine may pass it."""
    rule = _TABLE.get(node.op)
    if rule is None:
        return Refusal(_why_none(node.op), node.name, node.op)
    if (unknown := attributes.unknown(node)) is not None:
        return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, unknown)
    if view.graph.is_fed(node):
        return Refusal(Reason.GRAPH_INPUT, node.name)
    return rule(view, node)


def _why_none(op: str) -> Reason:
    if op.startswith(("FakeQuant", "QuantizeAndDequantize")):
        return Reason.FAKE_QUANT
    if op.removeprefix("Ref") in ("Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"):
        return Reason.CONTROL_FLOW
    if op in ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault"):
        return Reason.GRAPH_INPUT
    return Reason.NO_LAW
