"""Run the original as it is on disk, without any of this package's ways to change it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry
from tensorflow.python.saved_model import loader_impl

from tf_bnfold.formats.graph_file import read_graph_def
from tf_bnfold.formats.meta_graph import read_meta_graph
from tf_bnfold.formats.model import GraphDef, Model, SignatureDef, node_name, tensor_names
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.session import plain_config
from tf_bnfold.formats.tensors import tensor_name
from tf_bnfold.verify.session import Inputs, feeds_of, fetches_of, opened
from tf_bnfold.verify.values import Array

Run = Callable[[str, Inputs], dict[str, Array]]  # signature key and inputs to output values by name


@dataclasses.dataclass(frozen=True)
class Original:
    """What a folded graph is compared with.

    Attributes:
      name: What it is called.
      open: Opens it; the context gives a function that runs its signatures.
    """

    name: str
    open: Callable[[], AbstractContextManager[Run]]


def saved_model(path: str, tags: Sequence[str], frozen: Model, name: str = "the SavedModel") -> Original:
    """Return the SavedModel on disk, or where a part was cut out that can't be fed there, the graph before folding.

    Args:
      path: Its folder.
      tags: Its tags.
      frozen: What was loaded from it.
      name: What it is called.
    """
    if frozen.origin and not _can_feed(read_meta_graph(path, tags).graph_def, frozen):
        return _before_folding(frozen)
    return Original(name, lambda: _opened_saved_model(path, tags, frozen))


def frozen_graph(path: str, frozen: Model) -> Original:
    """Return the graph on disk, or where what was cut out can't be run there by itself, the graph before folding.

    Args:
      path: The file.
      frozen: What was loaded from it.
    """
    graph_def = pruned(
        read_graph_def(path), [name for each in frozen.origin.values() for name in fetches_of(each).values()]
    )
    if not _can_feed(graph_def, frozen):
        return _before_folding(frozen)
    return Original("the frozen graph", lambda: _opened_graph(graph_def, frozen))


def _can_feed(graph_def: GraphDef, frozen: Model) -> bool:
    """Tell whether a graph can be imported, and what was cut out of it be run by its inputs alone.

    It can't where a control edge leads across the cut, and where a tensor is inside a function there.
    """
    nodes = {node.name: node for node in graph_def.node}
    functions = {function.signature.name for function in graph_def.library.function}
    if any(op not in functions and op_def_registry.get(op) is None for op in {node.op for node in graph_def.node}):
        return False
    fed = {tensor for signature in frozen.origin.values() for tensor in _inputs_of(signature)} | set(frozen.fed)
    pending = [tensor for signature in frozen.origin.values() for tensor in fetches_of(signature).values()]
    seen: set[str] = set()
    if any(node_name(tensor) not in nodes for tensor in (*fed, *pending)):
        return False
    while pending:
        value = pending.pop()
        node = nodes[node_name(value)]
        if tensor_name(value) in fed or node.name in seen:
            continue
        if node.op in ("Placeholder", "PlaceholderV2"):
            return False
        seen.add(node.name)
        pending.extend(node.input)
    return True


def _inputs_of(signature: SignatureDef) -> Iterator[str]:
    return (tensor for info in signature.inputs.values() for tensor in tensor_names(info))


def _before_folding(frozen: Model) -> Original:
    @contextlib.contextmanager
    def open_frozen() -> Iterator[Run]:
        with opened(frozen) as runner:

            def run(key: str, inputs: Inputs) -> dict[str, Array]:
                fetches = fetches_of(frozen.signatures[key])
                values = runner.run(list(fetches.values()), feeds_of(frozen.signatures[key], inputs))
                return dict(zip(fetches, values, strict=True))

            yield run

    return Original("the graph before folding", open_frozen)


@contextlib.contextmanager
def _opened_graph(graph_def: GraphDef, frozen: Model) -> Iterator[Run]:
    with tf.Graph().as_default(), quiet(), tf.compat.v1.Session(config=plain_config()) as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        yield lambda key, inputs: _run_part(session, frozen, key, inputs)


@contextlib.contextmanager
def _opened_saved_model(path: str, tags: Sequence[str], frozen: Model) -> Iterator[Run]:
    """Load a SavedModel with TensorFlow's session loader, which takes models of all ages.

    It leaves variables of some Keras 3 models without a value (those saved with `tf.saved_model.save`); their
    signatures are called by way of TensorFlow 2's loader.
    """
    with tf.Graph().as_default(), quiet(), tf.compat.v1.Session(config=plain_config()) as session:
        with _loading():
            loader = loader_impl.SavedModelLoader(path)
            _run_plainly(loader.get_meta_graph_def_from_tags(list(tags)).graph_def)
            meta_graph = loader.load(session, list(tags))
        loaded = functools.cache(lambda: _loaded(path, tags))

        def run(key: str, inputs: Inputs) -> dict[str, Array]:
            if key in frozen.origin:
                return _run_part(session, frozen, key, inputs)
            signature = meta_graph.signature_def[key]
            fetches = fetches_of(signature)
            try:
                values = session.run(list(fetches.values()), feeds_of(signature, inputs) | dict(frozen.fed))
            except tf.errors.FailedPreconditionError:
                fixed = {
                    name: frozen.fed[info.name] for name, info in signature.inputs.items() if info.name in frozen.fed
                }
                return _called(loaded(), key, {**inputs, **fixed})
            return {name: np.asarray(value) for name, value in zip(fetches, values, strict=True)}

        yield run


def _run_plainly(graph_def: GraphDef) -> None:
    """Run calls without graph optimizers, as the session does all else: a call has a configuration of its own."""
    config = plain_config().SerializeToString()
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        for node in nodes:
            if "config_proto" in node.attr:
                node.attr["config_proto"].s = config


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Raise ValueError for whatever TensorFlow's loaders raise where parts are damaged that only they read."""
    try:
        yield
    except (AssertionError, AttributeError, LookupError, RuntimeError) as error:
        raise ValueError(str(error.args[0]) if error.args else type(error).__name__) from error


def _run_part(session: Any, frozen: Model, key: str, inputs: Inputs) -> dict[str, Array]:
    """Run what was cut out as a signature, by the tensors of the original's graph."""
    signature = frozen.origin[key]
    fetches = fetches_of(signature)
    there = session.graph.as_graph_element
    fed = {name: value for name, value in frozen.fed.items() if _has(there, name)}
    values = session.run(list(fetches.values()), feeds_of(signature, inputs) | fed)
    return {name: np.asarray(value) for name, value in zip(fetches, values, strict=True)}


def _has(lookup: Callable[[str], Any], name: str) -> bool:
    try:
        lookup(name)
    except (KeyError, ValueError):
        return False
    return True


def _loaded(path: str, tags: Sequence[str]) -> Any:
    """Load the model with TensorFlow 2's loader: its functions, and the variables that these write."""
    with context.eager_mode(), _loading():
        return tf.saved_model.load(path, list(tags))


def _called(loaded: Any, key: str, inputs: Inputs) -> dict[str, Array]:
    """Call a signature of a loaded model."""
    with context.eager_mode():
        with _loading():
            function = loaded.signatures[key]
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: np.asarray(value) for name, value in outputs.items()}
