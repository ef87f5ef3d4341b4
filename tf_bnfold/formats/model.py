"""The value that all formats load into and are written from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

GraphDef = Any  # tensorflow.core.framework.graph_pb2.GraphDef; TensorFlow has no type stubs
SignatureDef = Any  # tensorflow.core.protobuf.meta_graph_pb2.SignatureDef
TensorInfo = Any  # tensorflow.core.protobuf.meta_graph_pb2.TensorInfo


@dataclasses.dataclass(frozen=True)
class Asset:
    """A file that the graph reads, for instance the vocabulary of a table.

    Attributes:
      tensor_name: The string tensor that is fed with the file's path when the model is loaded.
      filename: Its name inside the assets/ folder.
      path: The file to copy.
    """

    tensor_name: str
    filename: str
    path: str


@dataclasses.dataclass(frozen=True)
class Order:
    """The names of a signature's inputs and of its outputs, in their order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Model:
    """An inference graph without variables but for its state, and the names by which it is used.

    Attributes:
      graph_def: Constants instead of variables that are only read; function calls are inlined where that loses nothing.
      signatures: Key to SignatureDef, with the keys and names of the original; they name tensors of `graph_def`.
      init_op: The node that initialises tables and state, "" if there is none.
      assets: Files that go with the model.
      notes: Sentences for the report about what was not kept.
      tags: Tags of the MetaGraph.
      fed: Values of inputs that became constants, by tensor of the original.
      origin: What a signature feeds and fetches in the original's graph, by key, where the original has no such
        signature: a frozen graph has none, and the user may cut out a part.
      state: Variables that inference writes; the init op gives them their initial values.
      custom_ops: Ops of the graph that TensorFlow does not know, and so can not run.
      order: The order of a signature's inputs and outputs, by key, where the user gives one; a SignatureDef has none.
    """

    graph_def: GraphDef
    signatures: Mapping[str, SignatureDef]
    init_op: str = ""
    assets: tuple[Asset, ...] = ()
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ("serve",)
    fed: Mapping[str, npt.NDArray[np.generic]] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, SignatureDef] = dataclasses.field(default_factory=dict)
    state: tuple[str, ...] = ()
    custom_ops: frozenset[str] = frozenset()
    order: Mapping[str, Order] = dataclasses.field(default_factory=dict)

    def inputs(self) -> tuple[str, ...]:
        """Name the tensors that are fed: the inputs of all signatures, each once."""
        infos = (
            info for _, signature in sorted(self.signatures.items()) for _, info in sorted(signature.inputs.items())
        )
        return tuple(dict.fromkeys(name for info in infos for name in tensor_names(info)))

    def outputs(self) -> tuple[str, ...]:
        """Name everything that must keep its name and value: tensors of signatures and assets, and the init op."""
        infos = (
            info for _, signature in sorted(self.signatures.items()) for _, info in sorted(signature.outputs.items())
        )
        names = [name for info in infos for name in tensor_names(info)]
        names += self.inputs()
        names += [asset.tensor_name for asset in self.assets]
        names += [self.init_op] if self.init_op else []
        return tuple(dict.fromkeys(names))

    def with_graph(self, graph_def: GraphDef) -> Model:
        """Return the same model over another graph."""
        return dataclasses.replace(self, graph_def=graph_def)

    def noting(self, *notes: str) -> Model:
        """Return the same model with more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))


def tensor_names(info: TensorInfo) -> Iterator[str]:
    """Yield the tensors of a TensorInfo: one, or the components of a sparse or composite tensor."""
    encoding = info.WhichOneof("encoding")
    if encoding == "name":
        yield info.name
    elif encoding == "coo_sparse":
        sparse = info.coo_sparse
        yield from (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    elif encoding == "composite_tensor":
        for component in info.composite_tensor.components:
            yield from tensor_names(component)


def node_name(tensor: str) -> str:
    """Return the node of a tensor, node or control input name: "a:0", "a" and "^a" give "a"."""
    return tensor.removeprefix("^").partition(":")[0]
