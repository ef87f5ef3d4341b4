"""What a user may want changed in a graph before anything else, as one value."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from tf_bnfold.options import Options


@dataclasses.dataclass(frozen=True)
class Surgery:
    """What to change in a graph as it is read.

    Attributes:
      input_nodes: Tensors at which the graph is cut: they become its inputs. Empty for the inputs that it has.
      output_nodes: Tensors that become its outputs. Empty for the outputs that it has.
      set_input: Value per input that becomes a constant.
      allow_custom_ops: Take ops that TensorFlow does not know.
    """

    input_nodes: tuple[str, ...] = ()
    output_nodes: tuple[str, ...] = ()
    set_input: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allow_custom_ops: bool = False

    @property
    def cuts(self) -> bool:
        """Whether the graph gets inputs or outputs of the user's choice."""
        return bool(self.input_nodes or self.output_nodes)

    @staticmethod
    def of(options: Options) -> Surgery:
        """Return what the options ask for."""
        return Surgery(options.input_nodes, options.output_nodes, options.set_input, options.allow_custom_ops)


def near(name: str, names: Iterable[str]) -> str:
    """Return a clause for an error about a name that is not there: a name that looks like it, or nothing."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]}?" if found else ""
