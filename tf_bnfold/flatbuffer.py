"""What a .tflite holds."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from ai_edge_litert import schema_py_generated as schema

from tf_bnfold.gpu import Operator

_BUILTIN_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}

_FLOATS = {schema.TensorType.FLOAT16, schema.TensorType.FLOAT32, schema.TensorType.FLOAT64}
_NO_ARITHMETIC = frozenset({"QUANTIZE", "DEQUANTIZE", "SHAPE"})


def op_counts(content: bytes) -> collections.Counter[str]:
    """Count the ops of a .tflite by type, over all its subgraphs; a custom op goes by its own name."""
    return collections.Counter(operator.type for subgraph in operators(content) for operator in subgraph)


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


def in_order(content: bytes, key: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Put the inputs and outputs of a .tflite into an order; the converter sorts them by name.

    Args:
      content: The .tflite.
      key: A signature, the only one of its subgraph.
      inputs: The names of its inputs.
      outputs: The names of its outputs.
    """
    ordered = bytearray(content)
    model = schema.Model.GetRootAs(ordered)
    signatures = (model.SignatureDefs(index) for index in range(model.SignatureDefsLength()))
    signature = next(each for each in signatures if each.SignatureKey() == key.encode())
    subgraph = model.Subgraphs(signature.SubgraphIndex())
    for names, place, count, there in (
        (inputs, signature.Inputs, signature.InputsLength(), subgraph.InputsAsNumpy()),
        (outputs, signature.Outputs, signature.OutputsLength(), subgraph.OutputsAsNumpy()),
    ):
        tensors = {str(each.Name(), "utf-8"): each.TensorIndex() for each in map(place, range(count))}
        wanted = [tensors[name] for name in names]
        if sorted(wanted) == sorted(there.tolist()):  # not where one tensor stands for two outputs
            there[:] = wanted
    return bytes(ordered)


def operators(content: bytes) -> tuple[tuple[Operator, ...], ...]:
    """Return the ops of a .tflite, by subgraph."""
    model = schema.Model.GetRootAs(content)
    codes = [_name(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())]
    subgraphs = (model.Subgraphs(index) for index in range(model.SubgraphsLength()))
    return tuple(tuple(_operators(subgraph, codes)) for subgraph in subgraphs)


def _operators(subgraph: schema.SubGraph, codes: Sequence[str]) -> Iterator[Operator]:
    for operator in (subgraph.Operators(index) for index in range(subgraph.OperatorsLength())):
        outputs = operator.OutputsAsNumpy().tolist() if operator.OutputsLength() else []
        name = subgraph.Tensors(outputs[0]).Name() if outputs else None
        yield Operator(codes[operator.OpcodeIndex()], (name or b"").decode(errors="backslashreplace"))


def _name(code: schema.OperatorCode) -> str:
    # Old files have the code in the deprecated field of one byte, with 0 in the other.
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    custom = code.CustomCode()
    return str(custom, "utf-8") if builtin == schema.BuiltinOperator.CUSTOM and custom else _BUILTIN_NAMES[builtin]
