"""Run a Model in a session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_bnfold.formats.input_shapes import with_placeholder_shapes
from tf_bnfold.formats.model import Model, SignatureDef, node_name, tensor_names
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.session import plain_config
from tf_bnfold.verify.spread import with_spread_weights
from tf_bnfold.verify.values import Array
from tf_bnfold.verify.weights import assign, with_variable_weights

TOO_MUCH = (tf.errors.ResourceExhaustedError, tf.errors.DeadlineExceededError)  # for this machine; no fault of a graph
Inputs = Mapping[str, Array]  # one array per input name of a signature


class Runner:
    """A Model in an open session."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, tensors: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return the values of the tensors. Raises tf.errors.OpError where the graph can't take the feeds."""
        return [np.asarray(value) for value in self._session.run(list(tensors), dict(feeds))]

    def outputs(self, nodes: Sequence[str]) -> dict[str, list[tuple[Any, tf.TensorShape]]]:
        """Return dtype and inferred shape of each output of the nodes; none of a node that the graph does not have."""
        operations = {operation.name: operation for operation in self._session.graph.get_operations()}
        return {
            name: [(output.dtype, output.shape) for output in operations[name].outputs] if name in operations else []
            for name in nodes
        }


@contextlib.contextmanager
def opened(model: Model, feeds: Mapping[str, Array] | None = None) -> Iterator[Runner]:
    """Open a session over the model's graph, with its tables initialised. It need not be closed in order with others.

    Args:
      model: The model.
      feeds: What will be fed, by tensor; the shapes are inferred from these.
    """
    shapes = {node_name(name): tf.TensorShape(value.shape).as_proto() for name, value in (feeds or {}).items()}
    with contextlib.ExitStack() as stack:
        with tf.Graph().as_default(), quiet():
            session = stack.enter_context(contextlib.closing(tf.compat.v1.Session(config=plain_config())))
            slim, weights = with_variable_weights(with_spread_weights(model.graph_def))
            tf.graph_util.import_graph_def(with_placeholder_shapes(slim, shapes), name="")
            assign(session, weights)
            del slim, weights
            if model.init_op:
                session.run(model.init_op, {asset.tensor_name: asset.path for asset in model.assets})
        yield Runner(session)


def same_tensors(signatures: Mapping[str, SignatureDef]) -> list[tuple[str, ...]]:
    """Group the keys of signatures that name the same tensors, so that these run once."""
    groups: dict[tuple[bytes, ...], tuple[str, ...]] = {}
    for key, signature in signatures.items():
        infos = sorted([*signature.inputs.items(), *signature.outputs.items()], key=lambda item: item[0])
        tensors = tuple(name.encode() + info.SerializeToString(deterministic=True) for name, info in infos)
        groups[tensors] = (*groups.get(tensors, ()), key)
    return list(groups.values())


def feeds_of(signature: SignatureDef, inputs: Inputs) -> dict[str, Array]:
    """Map input tensors to arrays."""
    return {signature.inputs[name].name: value for name, value in inputs.items()}


def fetches_of(signature: SignatureDef) -> dict[str, str]:
    """Map output names to tensors; a sparse or composite output has one entry per component."""
    fetches = {}
    for key in sorted(signature.outputs):
        names = list(tensor_names(signature.outputs[key]))
        fetches.update({key if len(names) == 1 else f"{key}[{index}]": name for index, name in enumerate(names)})
    return fetches
