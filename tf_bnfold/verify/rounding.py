"""What rounding alone changes: a graph is run again with constants that are each off by one rounding."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2

from tf_bnfold.formats.model import GraphDef, Model
from tf_bnfold.verify.measure import within_rounding
from tf_bnfold.verify.session import Runner, opened
from tf_bnfold.verify.values import Array, Difference


class Pair(NamedTuple):
    """A tensor of one run.

    Attributes:
      tensor: Its name.
      result: Its value in the result, None where it is missing.
      original: Its value in the original.
      axis: Of its channels, None where these are not judged by themselves.
    """

    tensor: str
    result: Array | None
    original: Array
    axis: int | None = None


_SEED = "tf_bnfold_rounding/seed"
_RUNS = 4  # of a channel with few values, one run may by chance move none of them
_DTYPES = frozenset({types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE})

Rounded = Callable[[Sequence[str], Mapping[str, Array]], list[tuple[Array, ...]]]


@contextlib.contextmanager
def rounding(model: Model, times: int = 1) -> Iterator[Rounded]:
    """Give what a graph computes when each of its constants is off by one rounding.

    Args:
      model: The model; one without state, as each run starts anew.
      times: By how many roundings, where other kernels are compared.

    Yields:
      A function of tensors and of the inputs by tensor, which returns the values of each tensor in several runs. It
      raises tf.errors.OpError where the graph can't run. A session is opened when it is first called.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def runner() -> Runner:
            return stack.enter_context(opened(model.with_graph(with_rounded_constants(model.graph_def, times))))

        def run(tensors: Sequence[str], feeds: Mapping[str, Array]) -> list[tuple[Array, ...]]:
            seeds = [{f"{_SEED}:0": np.array(seed, np.int32)} for seed in range(_RUNS)]
            return list(zip(*(runner().run(tensors, {**feeds, **seed}) for seed in seeds), strict=True))

        yield run


def allowing(
    found: Mapping[str, Difference], pairs: Mapping[str, Pair], rounded: Rounded, feeds: Mapping[str, Array]
) -> dict[str, Difference]:
    """Accept the differences that rounding explains: a deep or ill-conditioned graph makes much of it.

    Args:
      found: The differences.
      pairs: The values that differ, by the same names.
      rounded: Gives what rounding changes.
      feeds: The inputs, by tensor.
    """
    suspects = {
        name: pairs[name]
        for name, each in found.items()
        if each.failed and each.error != math.inf and pairs[name].result is not None
    }
    if not suspects:
        return dict(found)
    try:
        moved = rounded([pair.tensor for pair in suspects.values()], feeds)
    except tf.errors.OpError:  # then nothing explains them
        return dict(found)
    return dict(found) | {
        name: within_rounding(found[name], pair.result, pair.original, values, pair.axis)
        for (name, pair), values in zip(suspects.items(), moved, strict=True)
        if pair.result is not None
    }


def with_rounded_constants(graph_def: GraphDef, times: int = 1) -> GraphDef:
    """Let all nodes read float constants that are off by one rounding, up or down as a seed says.

    Numbers that stand alone stay, as they may steer; so do constants of functions, and those that wait for other nodes.

    Args:
      graph_def: A graph; it is not changed.
      times: By how many roundings.

    Returns:
      A graph with the same names and one more input, the seed.
    """
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    dtypes = {node.name: node.attr["dtype"].type for node in graph_def.node if _is_rounded(node)}
    for node in result.node:
        for position, value in enumerate(node.input):
            if value.removesuffix(":0") in dtypes:
                node.input[position] = _name(value.removesuffix(":0"))
    for dtype in sorted(set(dtypes.values())):
        result.library.function.append(_function(dtype, times))
    result.node.add(name=_SEED, op="Placeholder").attr["dtype"].type = types_pb2.DT_INT32
    for place, (name, dtype) in enumerate(dtypes.items()):
        result.node.extend(_call(name, dtype, place))
    return result


def _is_rounded(node: Any) -> bool:
    if node.op != "Const" or node.input or node.attr["dtype"].type not in _DTYPES:
        return False
    return bool(math.prod(dim.size for dim in node.attr["value"].tensor.tensor_shape.dim) > 1)


def _name(constant: str) -> str:
    return f"tf_bnfold_rounding/{constant}"


def _call(constant: str, dtype: int, place: int) -> Iterator[Any]:
    """Return the nodes that round a constant; its place makes it differ from others."""
    stream = node_def_pb2.NodeDef(name=f"{_name(constant)}/place", op="Const")
    stream.attr["dtype"].type = types_pb2.DT_INT32
    stream.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(place)))
    call = node_def_pb2.NodeDef(name=_name(constant), op="PartitionedCall", input=[constant, _SEED, stream.name])
    call.attr["Tin"].list.type.extend([dtype, types_pb2.DT_INT32, types_pb2.DT_INT32])
    call.attr["Tout"].list.type.append(dtype)
    call.attr["f"].func.name = _function_name(dtype)
    yield from (stream, call)


def _function_name(dtype: int) -> str:
    return f"tf_bnfold_rounding_{tf.as_dtype(dtype).name}"


def _function(dtype: int, times: int) -> Any:
    """Return the function that moves each element by so many roundings."""
    kind = tf.as_dtype(dtype)
    step = times * float(np.finfo(kind.as_numpy_dtype).eps)

    def off(value: tf.Tensor, seed: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        up = tf.random.stateless_uniform(tf.shape(value), tf.stack([seed, place]), 0, 2, tf.int32)
        return value * tf.cast(1 + step * (2 * tf.cast(up, tf.float64) - 1), kind)

    specs = [tf.TensorSpec(None, kind), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32)]
    function = tf.function(off, input_signature=specs).get_concrete_function().function_def
    function.signature.name = _function_name(dtype)
    return function
