"""Shape rules of what calls functions: (shapes, node, input shapes) -> output shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph

from tf_bnfold.errors import InputError
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.shapes.geometry import Shape, of_proto

if TYPE_CHECKING:
    from tf_bnfold.graph.shapes import Shapes


def _call(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    """The shapes of the results, inferred in the body; what the body calls in turn is not looked into."""
    function = s.functions.get(node.proto.attr["f"].func.name)
    if function is None:
        return None
    given = [tf.TensorShape(shape).as_proto() for shape in inputs]
    try:
        flat, names = function_def_to_graph.function_def_to_graph_def(function, given)
        flat.ClearField("library")
        return s.results(flat, [names[function.ret[result.name]] for result in function.signature.output_arg])
    except (RuntimeError, tf.errors.OpError, InputError):
        return None  # an op that is not known here, or a body that TensorFlow would refuse


def _declared(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    """What While, If and Case say of their results, which TensorFlow believes, too."""
    return [of_proto(shape) for shape in node.proto.attr["output_shapes"].list.shape] or None


Rule = Callable[["Shapes", Node, "list[Shape]"], "Sequence[Shape] | None"]
RULES: dict[str, Rule] = {
    "PartitionedCall": _call,
    "StatefulPartitionedCall": _call,
    "While": _declared,
    "StatelessWhile": _declared,
    "If": _declared,
    "StatelessIf": _declared,
    "Case": _declared,
    "StatelessCase": _declared,
}
