"""Load a frozen graph, as TensorFlow 1 writes it, into a Model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorflow.core.framework import types_pb2

from tf_bnfold.errors import FlagError, InputError
from tf_bnfold.formats.effects import effectful_functions, has_effect, without_idle_waits_in_functions
from tf_bnfold.formats.graph_file import read_graph_def
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import GraphDef, Model, node_name
from tf_bnfold.formats.prepare import prepared
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.sound import refuse_broken, refuse_wrong_names
from tf_bnfold.formats.surgery import Surgery, near
from tf_bnfold.formats.tensors import output_dtypes, short_name

_INPUTS = frozenset({"Placeholder", "PlaceholderV2"})
_NO_RESULTS = _INPUTS | {"Const", "PlaceholderWithDefault", "NoOp", "Assert"}
_SHOWN = 8


def load_frozen_graph(path: str, surgery: Surgery | None = None) -> Model:
    """Load a frozen graph as a model with one signature, `serving_default`, whose inputs and outputs are named by node.

    Args:
      path: The file, a GraphDef in binary or text form.
      surgery: Names inputs and outputs, and values of inputs. By default the placeholders are the inputs, and the nodes
        that nothing reads the outputs.

    Returns:
      The model: what the outputs need. Its notes name inputs and outputs that the user did not.

    Raises:
      InputError: If the file can't be used.
      FlagError: If a name is not in the graph, or has to be given.
    """
    surgery = surgery or Surgery()
    graph_def = read_graph_def(path)
    refuse_wrong_names(graph_def, path)
    refuse_broken(graph_def, path)
    there = {node.name for node in graph_def.node}
    for flag, names in (("--input_nodes", surgery.input_nodes), ("--output_nodes", surgery.output_nodes)):
        for name in names:
            if node_name(name) not in there:
                raise FlagError(f"{flag} names {name}, which {path} does not have{near(name, there)}")
    found = [] if surgery.output_nodes else _results(graph_def, surgery.input_nodes, path)
    read = pruned(graph_def, [*(found or surgery.output_nodes), *surgery.input_nodes, *surgery.set_input])
    try:
        model = prepared(Model(read, {}), surgery, path, found=found)
        model = model.with_graph(without_idle_waits_in_functions(model.graph_def))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path} can not be loaded: {one_line(error)}") from error
    notes = []
    if not surgery.input_nodes:
        notes.append(f"inputs, by their ops: {_listed(model.inputs())}; --input_nodes names others")
    if not surgery.output_nodes:
        outputs = sorted(info.name for signature in model.signatures.values() for info in signature.outputs.values())
        notes.append(f"outputs, as nothing reads them: {_listed(outputs)}; --output_nodes names others")
    return model.noting(*notes)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(short_name, names[:_SHOWN])) + more


def _results(graph_def: GraphDef, inputs: Sequence[str], path: str) -> list[str]:
    """List the tensors of the nodes that nothing reads and that something which is fed leads to.

    Raises:
      FlagError: If there is none, or some are no results but work, as a graph for training has it.
    """
    read = {node_name(value) for node in graph_def.node for value in node.input}
    fed = {node_name(name) for name in inputs} or {node.name for node in graph_def.node if node.op in _INPUTS}
    behind = _behind(graph_def, fed)
    ends = [
        node for node in graph_def.node if node.name not in read and node.op not in _NO_RESULTS and node.name in behind
    ]
    if not ends:
        raise FlagError(
            f"{path}: nothing that is computed from an input is left unread; name the outputs by --output_nodes"
        )
    effectful = effectful_functions(graph_def.library)
    work = [node for node in ends if _is_work(node, effectful)]
    if work:
        names = _listed([node.name for node in ends])
        raise FlagError(
            f"{path}: what the outputs are is not clear, for {work[0].op} {work[0].name} gives none; name them by "
            f"--output_nodes. Nothing reads {names}"
        )
    return [f"{node.name}:{index}" for node in ends for index in range(_outputs(node))]


def _outputs(node: Any) -> int:
    """Count the outputs that are results: those of a batch norm behind the first are for training."""
    return 1 if node.op.startswith("FusedBatchNorm") else max(len(output_dtypes(node)), 1)


def _is_work(node: Any, effectful: frozenset[str]) -> bool:
    """Tell whether a node that nothing reads is there for what it does, such as saving or summarising."""
    return has_effect(node, effectful) or types_pb2.DT_STRING in output_dtypes(node)


def _behind(graph_def: GraphDef, fed: set[str]) -> set[str]:
    readers: dict[str, list[str]] = {}
    for node in graph_def.node:
        for value in node.input:
            readers.setdefault(node_name(value), []).append(node.name)
    found = set(fed)
    pending = list(found)
    while pending:
        for reader in readers.get(pending.pop(), ()):
            if reader not in found:
                found.add(reader)
                pending.append(reader)
    return found
