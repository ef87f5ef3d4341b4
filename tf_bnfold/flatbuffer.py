"""What a .tflite holds."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from ai_edge_litert import schema_py_generated as schema

_BUILTIN_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def op_counts(content: bytes) -> collections.Counter[str]:
    """Count the ops of a .tflite by type, over all its subgraphs; a custom op goes by its own name."""
    return collections.Counter(_op_names(content))


def _op_names(content: bytes) -> Iterator[str]:
    model = schema.Model.GetRootAs(content)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    for subgraph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        for index in range(subgraph.OperatorsLength()):
            yield _name(codes[subgraph.Operators(index).OpcodeIndex()])


def _name(code: schema.OperatorCode) -> str:
    # Old files have the code in the deprecated field of one byte, with 0 in the other.
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    custom = code.CustomCode()
    return str(custom, "utf-8") if builtin == schema.BuiltinOperator.CUSTOM and custom else _BUILTIN_NAMES[builtin]
