"""What a .tflite holds."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from ai_edge_litert import schema_py_generated as schema

_BUILTIN_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}

_FLOATS = {schema.TensorType.FLOAT16, schema.TensorType.FLOAT32, schema.TensorType.FLOAT64}
_NO_ARITHMETIC = frozenset({"QUANTIZE", "DEQUANTIZE", "SHAPE"})


def op_counts(content: bytes) -> collections.Counter[str]:
    """Count the ops of a .tflite by type, over all its subgraphs; a custom op goes by its own name."""
    return collections.Counter(_op_names(content))


def float_ops(content: bytes) -> collections.Counter[str]:
    """Count the ops that compute with floats, by type; not those that look at a shape or lead to integers or back."""
    model = schema.Model.GetRootAs(content)
    codes = [_name(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())]
    found: collections.Counter[str] = collections.Counter()
    for subgraph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        floats = {i for i in range(subgraph.TensorsLength()) if subgraph.Tensors(i).Type() in _FLOATS}
        for operator in (subgraph.Operators(index) for index in range(subgraph.OperatorsLength())):
            tensors = {*operator.InputsAsNumpy().tolist()} if operator.InputsLength() else set()
            tensors |= {*operator.OutputsAsNumpy().tolist()} if operator.OutputsLength() else set()
            name = codes[operator.OpcodeIndex()]
            if tensors & floats and name not in _NO_ARITHMETIC:
                found[name] += 1
    return found


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
