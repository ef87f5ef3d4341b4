"""Compare every tensor whose name survives folding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import tensor_util

from tf_bnfold.formats.model import GraphDef, Model, SignatureDef, node_name
from tf_bnfold.formats.prune import pruned
from tf_bnfold.verify.nature import Reach, changeable_nodes, coarsest_dtype, conditional_tensors, deciding_nodes, reach
from tf_bnfold.verify.session import Runner, fetches_of
from tf_bnfold.verify.values import Array, Difference, difference, limit_for

_MOST_BYTES = 2**28  # of the values that are held of one graph at a time; a larger tensor is skipped
_UNKNOWN_BYTES = 2**20  # what a tensor of unknown shape is counted as
# TensorFlow looks each fetched tensor up among all nodes, 20 seconds at this product of fetches and nodes. Of larger
# graphs not all tensors are compared, but at least the fewest.
_MOST_LOOKUPS = 2 * 10**8
_FEWEST = 1000
_NO_VALUES = (tf.resource, tf.variant)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to compare for one signature, and what is known of these tensors beforehand.

    Attributes:
      graph_def: What the signature needs of the frozen graph.
      batches: Tensors to fetch together.
      limit: Tells the error to accept of a tensor.
      deciding: Nodes that are not continuous.
      unrepeatable: What depends on chance or state.
      skipped: Number of tensors with surviving names that are not compared.
    """

    graph_def: GraphDef
    batches: tuple[tuple[str, ...], ...]
    limit: Callable[[str], float]
    deciding: frozenset[str]
    unrepeatable: Reach
    skipped: int


def make_plan(model: Model, signature: SignatureDef, frozen: Runner, folded: Runner | None, rtol: float) -> Plan:
    """Find the tensors to compare.

    Args:
      model: The model before folding.
      signature: The signature whose part of the graph is compared.
      frozen: A session over the graph before folding, in which the shapes of the inputs are known.
      folded: A session over the graph after folding; None if there can be none, and so nothing to compare.
      rtol: The error to accept in float32.

    Returns:
      The plan.
    """
    graph_def = pruned(model.graph_def, fetches_of(signature).values())
    deciding = deciding_nodes(graph_def)
    unrepeatable = reach(graph_def, changeable_nodes(graph_def))
    tensors = _survivors(graph_def, frozen, folded) if folded else {}
    conditional = conditional_tensors(graph_def)
    wanted = [
        name
        for name, size in tensors.items()
        if name not in unrepeatable and name not in conditional and size <= _MOST_BYTES
    ]
    wanted = _thinned(wanted, deciding, most=max(_FEWEST, _MOST_LOOKUPS // (len(graph_def.node) + 1)))
    coarsest = coarsest_dtype(graph_def)
    return Plan(
        graph_def=graph_def,
        batches=tuple(_batches({name: tensors[name] for name in wanted})),
        limit=lambda tensor: limit_for(coarsest(tensor).as_numpy_dtype, rtol),
        deciding=deciding,
        unrepeatable=unrepeatable,
        skipped=len(tensors) - len(wanted),
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


def inner_differences(
    plan: Plan, frozen: Runner, folded: Runner, feeds: Mapping[str, Array]
) -> tuple[dict[str, Difference], Reach]:
    """Run both graphs and compare.

    Args:
      plan: What to compare.
      frozen: A session over the graph before folding.
      folded: A session over the graph after folding.
      feeds: The inputs, by tensor.

    Returns:
      The differences by tensor name, and what may differ because a discontinuous op before it decided otherwise, or
      could not be watched.
    """
    found: dict[str, Difference] = {}
    for batch in plan.batches:
        originals, results = frozen.run(batch, feeds), folded.run(batch, feeds)
        for name, original, result in zip(batch, originals, results, strict=True):
            found[name] = difference(result, original, plan.limit(name))
    watched = {node_name(name) for name in found}
    tipped = {node_name(name) for name, each in found.items() if each.share}
    doubtful = reach(plan.graph_def, plan.deciding & (tipped | (plan.deciding - watched)))
    marked = {name: each.told(decided_otherwise=name in doubtful) for name, each in found.items()}
    return marked, doubtful


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
