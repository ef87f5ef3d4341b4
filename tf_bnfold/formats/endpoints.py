"""Name what a SavedModel offers beside its signatures: Python objects, which are not kept."""

from __future__ import annotations

from collections.abc import Sequence

from tf_bnfold.formats.meta_graph import read_meta_graph

_SHOWN = 5


def lost_endpoints(path: str, tags: Sequence[str]) -> tuple[str, ...]:
    """Name the functions that a loaded SavedModel has as attributes, such as `serve` of a Keras 3 export.

    Args:
      path: Its folder.
      tags: Its tags.

    Returns:
      Their names, sorted; none for a SavedModel of TensorFlow 1.
    """
    meta_graph = read_meta_graph(path, tags)
    nodes = meta_graph.object_graph_def.nodes
    if not nodes:
        return ()
    functions = {
        child.local_name
        for child in nodes[0].children
        if nodes[child.node_id].WhichOneof("kind") in ("function", "bare_concrete_function")
    }
    return tuple(sorted(functions))


def endpoints_note(path: str, tags: Sequence[str]) -> tuple[str, ...]:
    """Return the sentence for the report on what a folded SavedModel does not have; none where it has all."""
    lost = lost_endpoints(path, tags)
    if not lost:
        return ()
    names = ", ".join(f".{name}()" for name in lost[:_SHOWN]) + (", ..." if len(lost) > _SHOWN else "")
    return (f"The folded SavedModel has the signatures; not kept are the Python endpoints {names} and the variables",)
