"""Compare every tensor whose name survives folding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import tensor_util

from tf_bnfold.formats.model import GraphDef, Model, SignatureDef, node_name, tensor_names
from tf_bnfold.formats.prune import called_functions, function_names, pruned
from tf_bnfold.verify.measure import difference, limit_for, with_channels
from tf_bnfold.verify.nature import (
    NOWHERE,
    Reach,
    changeable_nodes,
    coarsest_dtype,
    conditional_tensors,
    deciding_nodes,
    reach,
)
from tf_bnfold.verify.rounding import Pair, Rounded, allowing
from tf_bnfold.verify.session import TOO_MUCH, Runner, fetches_of
from tf_bnfold.verify.values import Array, Difference, LeftOut

_MOST_BYTES = 2**29  # of the values that are held of one graph at a time; a larger tensor is skipped
_UNKNOWN_BYTES = 2**20  # what a tensor of unknown shape is counted as
# TensorFlow looks each fetched tensor up among all nodes, 20 seconds at this product of fetches and nodes. Of larger
# graphs not all tensors are compared, but at least the fewest.
_MOST_LOOKUPS = 2 * 10**8
_FEWEST = 1000
# What a batch norm's value may be computed by, before and after folding.
_LINEAR = frozenset({
    "Conv2D", "Conv2DBackpropInput", "Conv3D", "Conv3DBackpropInputV2", "DepthwiseConv2dNative", "MatMul",
    "BatchMatMulV2", "BiasAdd", "Add", "AddV2", "Sub", "Mul", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3",
})  # fmt: skip
_NO_VALUES = (tf.resource, tf.variant)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to compare for one signature, and what is known of these tensors beforehand.

    Attributes:
      graph_def: What the signature computes of the frozen graph.
      altered: Nodes of it that the folded graph does not have, or not with the same inputs and attributes.
      batches: Tensors to fetch together.
      limit: Tells the error to accept of a tensor.
      channels: The axis of the channels of what linear ops and affines compute, by node.
      deciding: Nodes that are not continuous.
      unrepeatable: What depends on chance or state.
      left_out: Why a tensor with a surviving name is not compared.
    """

    graph_def: GraphDef
    altered: frozenset[str]
    batches: tuple[tuple[str, ...], ...]
    limit: Callable[[str], float]
    channels: Mapping[str, int]
    deciding: frozenset[str]
    unrepeatable: Reach
    left_out: Mapping[str, LeftOut]


def make_plan(
    model: Model, result: Model, signature: SignatureDef, frozen: Runner, folded: Runner | None, rtol: float
) -> Plan:
    """Find the tensors to compare.

    Args:
      model: The model before folding.
      result: The model after folding.
      signature: The signature whose part of the graph is compared.
      frozen: A session over the graph before folding, in which the shapes of the inputs are known.
      folded: A session over the graph after folding; None if there can be none, and so nothing to compare.
      rtol: The error to accept in float32.

    Returns:
      The plan.
    """
    graph_def = _computed(model.graph_def, signature)
    deciding = deciding_nodes(graph_def)
    unrepeatable = reach(graph_def, changeable_nodes(graph_def))
    tensors = _survivors(graph_def, frozen, folded) if folded else {}
    conditional = conditional_tensors(graph_def)
    left_out = {
        name: reason
        for name, size in tensors.items()
        for reason, holds in (
            (LeftOut.UNREPEATABLE, name in unrepeatable),
            (LeftOut.CONTROL_FLOW, name in conditional),
            (LeftOut.TOO_LARGE, size > _MOST_BYTES),
        )
        if holds
    }
    wanted = [name for name in tensors if name not in left_out]
    wanted = _thinned(wanted, deciding, most=max(_FEWEST, _MOST_LOOKUPS // (len(graph_def.node) + 1)))
    coarsest = coarsest_dtype(graph_def)
    return Plan(
        graph_def=graph_def,
        altered=_altered(graph_def, result.graph_def),
        batches=tuple(_batches({name: tensors[name] for name in wanted})),
        limit=lambda tensor: limit_for(coarsest(tensor).as_numpy_dtype, rtol),
        channels=_channels(model, graph_def),
        deciding=deciding,
        unrepeatable=unrepeatable,
        left_out=dict.fromkeys(tensors.keys() - wanted, LeftOut.TOO_LARGE) | left_out,
    )


def _channels(model: Model, graph_def: GraphDef) -> dict[str, int]:
    """Find what is judged by channels: what linear ops compute, where it can be told what rounding changes.

    It can't with state, as each run is a step, nor behind functions, whose constants are not within reach.
    """
    if model.state:
        return {}
    functions = {function.signature.name for function in graph_def.library.function}
    behind = reach(graph_def, [node.name for node in graph_def.node if not functions.isdisjoint(function_names(node))])
    return {
        node.name: _channel_axis(node)
        for node in graph_def.node
        if node.op in _LINEAR and f"{node.name}:0" not in behind
    }


def _channel_axis(node: Any) -> int:
    return 1 if "data_format" in node.attr and node.attr["data_format"].s.startswith(b"NC") else -1


def _computed(graph_def: GraphDef, signature: SignatureDef) -> GraphDef:
    """Copy what the signature computes, without an op whose output it feeds and what only that one needs."""
    fed = {tensor for info in signature.inputs.values() for tensor in tensor_names(info)}
    others = {
        node_name(value) for node in graph_def.node for value in node.input if value.partition(":")[2] not in ("", "0")
    }
    result = type(graph_def)()
    result.CopyFrom(graph_def)
    for node in result.node:
        if f"{node.name}:0" in fed and node.name not in others:
            node.op = "Placeholder"
            del node.input[:]
    return pruned(result, fetches_of(signature).values())


def _altered(graph_def: GraphDef, folded: GraphDef) -> frozenset[str]:
    """Name the nodes that the folded graph does not have as they are."""
    known = {node.name: node for node in folded.node}
    functions = {function.signature.name: function for function in folded.library.function}
    same = {each.signature.name for each in graph_def.library.function if functions.get(each.signature.name) == each}
    return frozenset(
        node.name
        for node in graph_def.node
        if node.op != "Placeholder"
        and (known.get(node.name) != node or not same.issuperset(called_functions([node], graph_def.library)))
    )


def _survivors(graph_def: GraphDef, frozen: Runner, folded: Runner) -> dict[str, int]:
    """Map the tensors that both graphs have to their sizes in bytes; without constants, which need no run."""
    names = [node.name for node in graph_def.node if node.op not in ("Const", "Placeholder")]
    originals, results = frozen.outputs(names), folded.outputs(names)
    return {
        f"{name}:{index}": _bytes(dtype, shape)
        for name in names
        for index, ((dtype, shape), (other, _)) in enumerate(zip(originals[name], results[name], strict=False))
        if dtype == other and dtype not in _NO_VALUES
    }


def _thinned(tensors: Sequence[str], deciding: frozenset[str], most: int) -> list[str]:
    """Keep at most so many tensors, evenly spread, and those of all deciding nodes."""
    if len(tensors) <= most:
        return list(tensors)
    step = len(tensors) / most
    spread = {int(step * index) for index in range(most)}
    return [name for index, name in enumerate(tensors) if index in spread or node_name(name) in deciding]


def _bytes(dtype: tf.DType, shape: tf.TensorShape) -> int:
    elements = shape.num_elements()
    return _UNKNOWN_BYTES if elements is None else int(elements) * int(dtype.size or 8)


def _batches(tensors: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    batch: list[str] = []
    held = 0
    for name, size in tensors.items():
        if batch and held + size > _MOST_BYTES:
            yield tuple(batch)
            batch, held = [], 0
        batch.append(name)
        held += size
    if batch:
        yield tuple(batch)


@dataclasses.dataclass(frozen=True)
class Doubt:
    """What may differ although nothing is wrong.

    Attributes:
      tipped: What is behind a discontinuous op that decided otherwise on inputs that are right.
      unwatched: What is behind one of which that is not known.
    """

    tipped: Reach = NOWHERE
    unwatched: Reach = NOWHERE

    def judged(self, tensor: str, found: Difference) -> Difference:
        """Return what a difference of this tensor says: an error, a share that may differ, or nothing."""
        if not found.share:
            return found
        if tensor in self.tipped:
            return found.told(decided_otherwise=True)
        return found.unwatched() if tensor in self.unwatched else found.told(decided_otherwise=False)


def inner_differences(
    plan: Plan,
    frozen: Runner,
    folded: Runner,
    rounded: Rounded | None,
    feeds: Mapping[str, Array],
    wanted: Collection[str] = (),
) -> tuple[dict[str, Difference], Doubt, dict[str, Array]]:
    """Run both graphs and compare.

    Args:
      plan: What to compare.
      frozen: A session over the graph before folding.
      folded: A session over the graph after folding.
      rounded: Gives what rounding changes in the graph before folding; None where that can't be told.
      feeds: The inputs, by tensor.
      wanted: Tensors whose values are asked for, too.

    Returns:
      The differences by tensor name; what may differ because a discontinuous op before it decided otherwise, or could
      not be watched; and of the wanted tensors those values of the folded graph that came up.
    """
    found: dict[str, Difference] = {}
    values: dict[str, Array] = {}
    failed: dict[str, Difference] = {}
    for batch in plan.batches:
        try:
            originals = frozen.run(batch, feeds)
        except tf.errors.OpError:  # what the outputs need runs, but not all else that leads to a name
            failed |= {name: Difference(None, 0.0, plan.limit(name), LeftOut.NOT_FETCHED) for name in batch}
            continue
        for pair in _pairs(plan, batch, originals, results(folded, batch, feeds)):
            found[pair.tensor] = _difference(pair, plan.limit(pair.tensor))
            if pair.result is not None and pair.tensor in wanted:
                values[pair.tensor] = pair.result
    doubt = _doubt(plan, found)
    judged = {name: doubt.judged(name, each) for name, each in found.items()}
    if rounded is not None:
        judged |= _within_rounding(plan, judged, frozen, folded, rounded, feeds)
    return judged | failed, doubt, values


def _within_rounding(
    plan: Plan,
    judged: Mapping[str, Difference],
    frozen: Runner,
    folded: Runner,
    rounded: Rounded,
    feeds: Mapping[str, Array],
) -> dict[str, Difference]:
    """Look at what fails once more, in the light of what rounding makes."""
    found: dict[str, Difference] = {}
    for batch in plan.batches:
        failed = {name: judged[name] for name in batch if name in judged and judged[name].failed}
        if failed:
            names = list(failed)
            pairs = _pairs(plan, names, frozen.run(names, feeds), results(folded, names, feeds))
            found |= allowing(failed, {pair.tensor: pair for pair in pairs}, rounded, feeds)
    return found


def _pairs(
    plan: Plan, names: Sequence[str], originals: Sequence[Array], found: Sequence[Array | None]
) -> Iterator[Pair]:
    for name, original, result in zip(names, originals, found, strict=True):
        yield Pair(name, result, original, plan.channels.get(node_name(name)) if original.ndim > 1 else None)


def _difference(pair: Pair, limit: float) -> Difference:
    if pair.result is None:
        return Difference(math.inf, 1.0, limit)
    whole = difference(pair.result, pair.original, limit)
    return whole if pair.axis is None else with_channels(whole, pair.result, pair.original, pair.axis)


def results(folded: Runner, batch: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array | None]:
    """Run the folded graph, which must compute what the original does: None of each tensor where it can't.

    Raises:
      tf.errors.OpError: One of TOO_MUCH, which says nothing of the graph.
    """
    try:
        return folded.run(batch, feeds)
    except TOO_MUCH:
        raise
    except tf.errors.OpError:
        return [None] * len(batch)


def _doubt(plan: Plan, found: Mapping[str, Difference]) -> Doubt:
    watched = {node_name(name) for name in found}
    differing = {node_name(name) for name, each in found.items() if each.share}
    alike = watched - differing - {node_name(name) for name, each in found.items() if each.left_out}
    unwatched = plan.deciding - watched
    suspect = reach(plan.graph_def, plan.altered - alike, barred=alike) if unwatched else NOWHERE
    unknown = {name for name in unwatched if name in suspect}
    tipped = (plan.deciding & differing) | (unwatched - unknown)
    return Doubt(reach(plan.graph_def, tipped), reach(plan.graph_def, unknown, barred=alike))


def constant_differences(frozen: GraphDef, folded: GraphDef) -> dict[str, Difference]:
    """Compare the constants that survive by name; they may not differ at all."""
    values = {node.name: node.attr["value"].tensor for node in folded.node if node.op == "Const"}
    changed = {
        node.name: (node.attr["value"].tensor, values[node.name])
        for node in frozen.node
        if node.op == "Const" and node.name in values and node.attr["value"].tensor != values[node.name]
    }
    return {f"{name}:0": _between(original, result) for name, (original, result) in changed.items()}


def _between(original: Any, result: Any) -> Difference:
    found = difference(tensor_util.MakeNdarray(result), tensor_util.MakeNdarray(original), 0.0)
    return dataclasses.replace(found, error=found.error or math.inf) if found.share else found
