"""The one checker of folds: structure, numbers at every surviving name, idempotence and reasons, in one call."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from oracle import to_float64
from tensorflow.core.framework import graph_pb2, node_def_pb2

from tf_bnfold.fold import Folding, fold_graph
from tf_bnfold.formats.inline import inline_calls
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

# Ops that hold or steer and compute nothing; they are not counted.
FREE = frozenset({"Const", "Placeholder", "Identity", "NoOp", "IdentityN", "Shape"})

_LINEAR = frozenset(
    [
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "MatMul",
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "Einsum",
        "Conv2DBackpropInput",
        "Conv3DBackpropInputV2",
        "DepthwiseConv2dNativeBackpropInput",
    ]
)

# Folding may not be worse than the original by more than this, in float64 against the float64 oracle: new constants
# are stored in the graph's dtype.
RTOL = 2e-6
# A folded constant is rounded once, and stands for several that were rounded before.
_ROUNDINGS = 4
# The same for a channel beside its own largest value, which cancels more easily: that error counts this much.
_SLACK = 0.02


@dataclasses.dataclass
class Built:
    """A graph that a test wrote, and what it fetches."""

    graph_def: graph_pb2.GraphDef
    outputs: list[str]


def build(function: Callable[[], object]) -> Built:
    """Run a function that writes ops into a graph; it returns its outputs, or one, or a `Built`."""
    with tf.Graph().as_default() as graph:
        result = function()
        if isinstance(result, Built):
            return result
        outputs = list(result) if isinstance(result, list | tuple) else [result]
        return Built(graph.as_graph_def(), [tensor.name.removesuffix(":0") for tensor in outputs])


def ops_left(graph_def: graph_pb2.GraphDef) -> list[str]:
    """The ops that compute, sorted."""
    fed_by = {node.name: node for node in graph_def.node}
    computed: dict[str, bool] = {}
    for node in _ordered(graph_def, fed_by):
        inputs = [name.split(":")[0] for name in node.input if not name.startswith("^")]
        computed[node.name] = node.op == "Placeholder" or any(computed.get(name, True) for name in inputs)
    return sorted(node.op for node in graph_def.node if node.op not in FREE and computed[node.name])


def _ordered(graph_def: graph_pb2.GraphDef, nodes: Mapping[str, object]) -> Iterable:
    done: set[str] = set()
    for root in graph_def.node:
        pending = [(root, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                yield node
                continue
            if node.name in done:
                continue
            done.add(node.name)
            pending.append((node, True))
            for name in node.input:
                producer = nodes.get(name.lstrip("^").split(":")[0])
                if producer is not None and producer.name not in done:
                    pending.append((producer, False))


def feeds_of(graph_def: graph_pb2.GraphDef, seed: int, scale: float) -> dict[str, np.ndarray]:
    """Seeded inputs for every placeholder; unknown dimensions are 2."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for node in graph_def.node:
        if node.op != "Placeholder":
            continue
        shape = [d.size if d.size >= 0 else 2 for d in node.attr["shape"].shape.dim]
        dtype = tf.dtypes.as_dtype(node.attr["dtype"].type).as_numpy_dtype
        kind = np.dtype(dtype).kind
        if kind == "b":
            feeds[f"{node.name}:0"] = rng.integers(0, 2, shape).astype(bool)
        elif kind in "iu":
            feeds[f"{node.name}:0"] = rng.integers(0, 2, shape).astype(dtype)
        else:
            feeds[f"{node.name}:0"] = (scale * rng.standard_normal(shape)).astype(dtype)
    return feeds


def run(graph_def: graph_pb2.GraphDef, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a GraphDef in a session of its own."""
    return run_each(graph_def, names, [feeds])[0]


def run_each(
    graph_def: graph_pb2.GraphDef, names: Sequence[str], all_feeds: Sequence[Mapping[str, np.ndarray]]
) -> list[list[np.ndarray]]:
    """Run a GraphDef on several inputs."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        config = tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.compat.v1.Session(graph=graph, config=config) as session:
            return [session.run(list(names), dict(feeds)) for feeds in all_feeds]


def float_tensors(graph_def: graph_pb2.GraphDef) -> dict[str, str]:
    """The tensors of floats that a graph computes, name -> op."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        return {
            tensor.name: operation.type
            for operation in graph.get_operations()
            for index, tensor in enumerate(operation.outputs)
            if tensor.dtype.is_floating and not (operation.type.startswith("FusedBatchNorm") and index > 0)
        }


def worst_error(original: graph_pb2.GraphDef, folded: graph_pb2.GraphDef, *, seed: int = 0) -> tuple[float, str]:
    """The largest relative error at the names that both graphs have, and where it is; in float64 on wide inputs."""
    original, folded = (inline_calls(graph) for graph in (original, folded))  # so that functions are looked into
    left, right = to_float64(original), to_float64(folded)
    kept = {node.name for node in original.node} & {node.name for node in folded.node}
    # A batch norm whose statistics nobody reads may get others.
    norms = {node.name for node in original.node if node.op.startswith("FusedBatchNorm")}
    common = sorted(
        name
        for name in float_tensors(left).keys() & float_tensors(right).keys()
        if name.split(":")[0] in kept and not (name.split(":")[0] in norms and not name.endswith(":0"))
    )
    return _worst_at(common, left, right, original, seed)


def _worst_at(
    names: Sequence[str],
    left: graph_pb2.GraphDef,
    right: graph_pb2.GraphDef,
    original: graph_pb2.GraphDef,
    seed: int = 0,
) -> tuple[float, str]:
    """The largest relative error of two graphs in float64 at some names, and where it is."""
    worst, where = 0.0, ""
    feeds = [
        {name: _widened(value) for name, value in feeds_of(original, seed, scale).items()} for scale in (0.1, 1.0, 30.0)
    ]
    for expected, found in zip(run_each(left, names, feeds), run_each(right, names, feeds), strict=True):
        for name, a, b in zip(names, expected, found, strict=True):
            finite = np.isfinite(a)
            if not finite.any():
                continue
            difference = np.abs(np.where(finite, a, 0) - np.where(finite, b, 0))
            magnitude = np.abs(np.where(finite, a, 0))
            error = max(
                float(difference.max() / max(magnitude.max(), 1e-30)), _SLACK * _by_channel(difference, magnitude)
            )
            if not error <= worst:
                # A NaN would compare as no error with everything that comes behind it.
                worst, where = (error if np.isfinite(error) else np.inf), name
    return worst, where


def cost_of_rounding(original: graph_pb2.GraphDef) -> float:
    """The error that a graph gets when each of its float32 constants is off by up to one rounding."""
    original = inline_calls(original)
    exact = to_float64(original)
    rounded = graph_pb2.GraphDef()
    rounded.CopyFrom(exact)
    rng = np.random.default_rng(0)
    for node in rounded.node:
        if node.op == "Const" and node.attr["dtype"].type == tf.float64.as_datatype_enum:
            value = tf.make_ndarray(node.attr["value"].tensor)
            off = value * (1 + rng.choice([-1.0, 1.0], value.shape) * 2.0**-24)
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(off))
    kept = {node.name for node in original.node}
    names = [name for name in float_tensors(exact) if name.split(":")[0] in kept]
    return _worst_at(names, exact, rounded, original)[0]


def _by_channel(difference: np.ndarray, magnitude: np.ndarray) -> float:
    """The largest error of a channel of the last axis in relation to that channel.

    A channel that is small beside the others would hide its error in the whole tensor's. One that is nothing beside
    them is left out: it is a zero, up to rounding.
    """
    if difference.ndim < 2:
        return 0.0
    others = tuple(range(difference.ndim - 1))
    errors, sizes = difference.max(others), magnitude.max(others)
    seen = sizes > 1e-15 * sizes.max()
    return float((errors[seen] / sizes[seen]).max(initial=0.0))


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64) if value.dtype.kind == "f" or value.dtype.name == "bfloat16" else value


def check_fold(
    function: Callable[[], object],
    *,
    expect: Sequence[str] | None = None,
    refused: Mapping[str, Reason] | None = None,
    statuses: Sequence[Status] | None = None,
    inputs: Sequence[str] = (),
    rtol: float = RTOL,
    keep: str = "",
    shared_weights: str = "copy",
    quantize: str = "none",
    is_deep: bool = False,
) -> Folding:
    """Fold a graph and check everything that a fold promises.

    Args:
      function: Writes the graph and returns its outputs.
      expect: The ops that are left, sorted, without constants, identities and what computes constants.
      refused: For each site that stays (by the name of its last node): why.
      statuses: What became of the sites, in order.
      inputs: Names that are fed beside placeholders.
      rtol: Largest error against the float64 oracle; new constants are stored in the graph's dtype.
      keep: Names that are left alone.
      shared_weights: Whether weights that several ops read may be stored again.
      quantize: How a .tflite of it would be quantised.
      is_deep: Whether the graph may be so deep that rounding its own constants costs more than `rtol`; then an error
        may be as large as that.
    """
    built = build(function)
    before = built.graph_def.SerializeToString(deterministic=True)
    folding = fold_graph(built.graph_def, built.outputs, inputs, keep, shared_weights, quantize)
    folded = folding.graph_def
    assert built.graph_def.SerializeToString(deterministic=True) == before, "the argument was changed"
    names = [node.name for node in folded.node]
    assert len(set(names)) == len(names), [name for name, n in collections.Counter(names).items() if n > 1]
    kept = {outcome.name: outcome.refusal for outcome in folding.outcomes if outcome.refusal is not None}
    if refused is not None:
        assert {name: refusal.reason for name, refusal in kept.items()} == dict(refused), kept
    if statuses is not None:
        assert [outcome.status for outcome in folding.outcomes] == list(statuses), folding.outcomes
    if expect is not None:
        assert ops_left(folded) == sorted(expect), (ops_left(folded), folding.outcomes)
    for output in built.outputs:
        assert output.split(":")[0] in names, f"output {output} is gone"
    error, where = worst_error(built.graph_def, folded)
    if error > rtol and is_deep:
        rtol = max(rtol, _ROUNDINGS * cost_of_rounding(built.graph_def))
    assert error <= rtol, f"error {error:.3g} at {where}, limit {rtol:.3g}: {folding.outcomes}"
    assert_runs(built.graph_def, folded, built.outputs)
    assert_never_more(built.graph_def, folded, built.outputs)
    again = fold_graph(folded, built.outputs, inputs, keep, shared_weights, quantize)
    assert again.graph_def.SerializeToString(deterministic=True) == folded.SerializeToString(deterministic=True), (
        "not idempotent",
        again.outcomes,
    )
    return folding


def assert_runs(original: graph_pb2.GraphDef, folded: graph_pb2.GraphDef, outputs: Sequence[str]) -> None:
    """TensorFlow takes the folded graph as it is, gives it the same shapes, and runs it where it runs the original."""
    names = [output if ":" in output else f"{output}:0" for output in outputs]
    before, behind = static_shapes(original, names), static_shapes(folded, names)
    assert before == behind, f"shapes of {names}: {before} became {behind}"
    feeds = feeds_of(original, 0, 1.0)
    try:
        expected = run(original, names, feeds)
    except tf.errors.OpError:
        return  # this machine has no kernel for the original either (NCHW, groups); float64 had to do
    for name, a, b in zip(names, expected, run(folded, names, feeds), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{name}: {a.dtype} {a.shape} became {b.dtype} {b.shape}"


def static_shapes(graph_def: graph_pb2.GraphDef, names: Sequence[str]) -> list[list[int | None] | None]:
    """What TensorFlow's own shape inference gives."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        shapes = [graph.get_tensor_by_name(name).shape for name in names]
        return [shape.as_list() if shape.rank is not None else None for shape in shapes]


def assert_never_more(original: graph_pb2.GraphDef, folded: graph_pb2.GraphDef, outputs: Sequence[str]) -> None:
    """No path to an output has more ops than the longest one had."""
    for output in outputs:
        assert _longest(folded, output) <= _longest(original, output), f"more ops on the way to {output}"


def _is_linear_op(node: node_def_pb2.NodeDef | None) -> bool:
    return node is not None and node.op in _LINEAR


def _longest(graph_def: graph_pb2.GraphDef, output: str) -> int:
    nodes = {node.name: node for node in graph_def.node}
    length: dict[str, int] = {}
    for node in _ordered(graph_def, nodes):
        producers = [name.lstrip("^").split(":")[0] for name in node.input if not name.startswith("^")]
        counts = [length.get(name, 0) for name in producers]
        # A bias right behind its linear op is a part of it: every runtime computes the two as one.
        is_bias = node.op in ("BiasAdd", "AddV2") and any(_is_linear_op(nodes.get(name)) for name in producers)
        length[node.name] = max(counts, default=0) + (node.op not in FREE and not is_bias)
    return length[output.split(":")[0]]
