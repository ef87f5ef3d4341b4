"""What a decision explains: the graph is run again, and each discontinuous op gets inputs that differ as they may."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2

from tf_bnfold.formats.model import GraphDef, Model, node_name
from tf_bnfold.formats.tensors import input_dtypes, short_name, tensor_name
from tf_bnfold.verify.measure import difference, output_difference
from tf_bnfold.verify.nature import Reach, conditional_tensors, deciding_nodes, reach
from tf_bnfold.verify.rounding import Pair
from tf_bnfold.verify.session import Runner, opened
from tf_bnfold.verify.values import Array, Difference

_SIGN, _SEED = "tf_bnfold_noise/sign", "tf_bnfold_noise/seed"
# Each noise is taken with both signs: what stands right at a decision's edge is beyond it with one of them.
_NOISES = tuple(
    {f"{_SIGN}:0": np.array(sign, np.float32), f"{_SEED}:0": np.array(seed, np.int32)}
    for seed in (1, 2)
    for sign in (1, -1)
)
_FURTHER = 2.0  # as far as noise moves an output, and as much again: of several ties a noise breaks about half
_REAL = {types_pb2.DT_HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE}


@dataclasses.dataclass(frozen=True)
class Output:
    """An output of one run.

    Attributes:
      tensor: Its tensor.
      expected: Its value.
      found: The value in the result, None where it is missing.
      limit: The error to accept.
    """

    tensor: str
    expected: Array
    found: Array | None
    limit: float

    @functools.cached_property
    def difference(self) -> Difference:
        """How far the result is from what is expected, infinitely where it is missing."""
        if self.found is None:
            return Difference(math.inf, 1.0, self.limit)
        return output_difference(self.found, self.expected, self.limit)

    @property
    def pair(self) -> Pair:
        """What is compared."""
        return Pair(self.tensor, self.found, self.expected)


Explain = Callable[[Mapping[str, Array], Mapping[str, Output], Reach], dict[str, Difference]]


@contextlib.contextmanager
def explaining(model: Model, limit: Callable[[str], float]) -> Iterator[Explain]:
    """Tell which differences of outputs the decisions of a graph can explain.

    Two right runs may decide otherwise where a decision is close. So the graph is run again, and the inputs of each
    discontinuous op are moved by the error that is accepted of them. A difference up to twice as large as that makes is
    told; one that is larger is a fault, like all differences where no decision comes before.

    Args:
      model: The model that gives the expected values.
      limit: Tells the error to accept of a tensor.

    Yields:
      A function of the inputs by tensor, of all outputs by name, and of what a decision may have changed. It is to be
      called for each run, and returns what is to be said of each output that differs and may have been changed. Behind
      an op that can't be moved, for it has no float input or is inside a loop of TF1, a difference is told.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def noisy() -> tuple[Sequence[Runner], Reach]:
            graph_def, unmoved = with_noise(model.graph_def, model.inputs(), limit)
            # With state every run is a step, and each noise takes its own.
            sessions = len(_NOISES) if model.state else 1
            runners = [stack.enter_context(opened(model.with_graph(graph_def))) for _ in range(sessions)]
            return runners * (len(_NOISES) // sessions), unmoved

        decides = bool(deciding_nodes(model.graph_def))

        def explain(feeds: Mapping[str, Array], outputs: Mapping[str, Output], changed: Reach) -> dict[str, Difference]:
            found = {
                name: each.difference.told(decided_otherwise=True)
                for name, each in outputs.items()
                if each.tensor in changed and each.difference.share
            }
            if not decides or not (found or model.state):
                return found
            runners, unmoved = noisy()
            tensors = [each.tensor for each in outputs.values()]
            with contextlib.suppress(tf.errors.OpError):  # an index that the noise led out of range says nothing
                runs = [runner.run(tensors, {**feeds, **noise}) for runner, noise in zip(runners, _NOISES, strict=True)]
                for (name, each), values in zip(outputs.items(), zip(*runs, strict=True), strict=True):
                    if name in found and each.tensor not in unmoved:
                        found[name] = each.difference.told(decided_otherwise=_is_explained(each, values))
            return found

        yield explain


def _is_explained(output: Output, values: Sequence[Array]) -> bool:
    if output.found is None:
        return False
    found = output.difference
    moved = [difference(value, output.expected, output.limit) for value in values]
    error, share = max(each.error or 0.0 for each in moved), max(each.share for each in moved)
    return (found.error or 0.0) <= _FURTHER * error and found.share <= _FURTHER * share


def with_noise(graph_def: GraphDef, fed: Sequence[str], limit: Callable[[str], float]) -> tuple[GraphDef, Reach]:
    """Add noise to what decisions are made on.

    Args:
      graph_def: A graph; it is not changed.
      fed: Its inputs.
      limit: Tells the largest noise of a tensor, relative to its largest value.

    Returns:
      A graph whose discontinuous ops read their float inputs with noise, of which two more inputs tell sign and seed;
      and what is behind those ops that get none.
    """
    varying = reach(graph_def, map(node_name, fed))  # what depends on no input is decided once for all
    conditional = conditional_tensors(graph_def)
    deciding = {name for name in deciding_nodes(graph_def) if name in varying}
    functions = {function.signature.name: function.signature for function in graph_def.library.function}
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    dtypes: dict[str, int] = {}
    moved = set()
    for node in [node for node in result.node if node.name in deciding]:
        for position, (value, dtype) in enumerate(zip(node.input, _dtypes(node, functions), strict=False)):
            tensor = tensor_name(value)
            if dtype in _REAL and tensor in varying and tensor not in conditional:
                dtypes[tensor] = dtype
                node.input[position] = _noisy(tensor)
                moved.add(node.name)
    for dtype in sorted(set(dtypes.values())):
        result.library.function.append(_noise_function(dtype))
    for name, dtype in ((_SIGN, types_pb2.DT_FLOAT), (_SEED, types_pb2.DT_INT32)):
        result.node.add(name=name, op="Placeholder").attr["dtype"].type = dtype
    for place, (tensor, dtype) in enumerate(dtypes.items()):
        result.node.extend(_noise(tensor, dtype, limit(tensor), place))
    return result, reach(graph_def, deciding - moved)


def _dtypes(node: Any, functions: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the dtypes of a node's data inputs, also where its op is a function of the library."""
    if node.op in functions:
        return tuple(argument.type for argument in functions[node.op].input_arg)
    return input_dtypes(node)


def _noisy(tensor: str) -> str:
    return f"tf_bnfold_noise/{tensor.replace(':', '_')}"


def _noise(tensor: str, dtype: int, limit: float, place: int) -> Iterator[Any]:
    """Return the nodes that add noise to a tensor; its place makes it differ from that of others."""
    size = _constant(f"{_noisy(tensor)}/limit", np.float32(limit))
    stream = _constant(f"{_noisy(tensor)}/place", np.int32(place))
    call = node_def_pb2.NodeDef(name=_noisy(tensor), op="PartitionedCall")
    call.input.extend([short_name(tensor), size.name, _SIGN, _SEED, stream.name])
    call.attr["Tin"].list.type.extend([dtype, *(types_pb2.DT_FLOAT,) * 2, *(types_pb2.DT_INT32,) * 2])
    call.attr["Tout"].list.type.append(dtype)
    call.attr["f"].func.name = _function_name(dtype)
    yield from (size, stream, call)


def _constant(name: str, value: np.generic) -> Any:
    proto = tf.make_tensor_proto(value)
    constant = node_def_pb2.NodeDef(name=name, op="Const")
    constant.attr["dtype"].type = proto.dtype
    constant.attr["value"].tensor.CopyFrom(proto)
    return constant


def _function_name(dtype: int) -> str:
    return f"tf_bnfold_noise_{tf.as_dtype(dtype).name}"


def _noise_function(dtype: int) -> Any:
    """Return the function that adds noise to a tensor, relative to its largest finite value."""
    kind = tf.as_dtype(dtype)

    def add(value: tf.Tensor, limit: tf.Tensor, sign: tf.Tensor, seed: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        sizes = tf.where(tf.math.is_finite(value), tf.abs(value), tf.zeros_like(value))
        noise = tf.random.stateless_uniform(tf.shape(value), tf.stack([seed, place]), -1, 1, kind)
        return value + tf.cast(limit * sign, kind) * tf.reduce_max(tf.reshape(sizes, [-1])) * noise

    specs = [tf.TensorSpec(None, kind), *(tf.TensorSpec([], tf.float32),) * 2, *(tf.TensorSpec([], tf.int32),) * 2]
    function = tf.function(add, input_signature=specs).get_concrete_function().function_def
    function.signature.name = _function_name(dtype)
    return function
