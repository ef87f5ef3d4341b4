"""Read the values of flags that are written as NAME:SHAPE, NAME=VALUE or numbers."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tf_bnfold.errors import FlagError


def input_shapes(texts: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """Return the shape per input name from texts like "image:1,224,224,3"; -1 is an unknown dimension, "x:" a scalar.

    Raises:
      FlagError: when a text is not of that form, or names an input twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        match = re.fullmatch(r"(?P<name>.+):(?P<dims>(-1|\d+)(,(-1|\d+))*|)", text.replace(" ", ""))
        if match is None:
            raise FlagError(f"--input_shapes={text}: give NAME:DIMENSIONS, as in image:1,224,224,3 (-1 for unknown)")
        if match["name"] in shapes:
            raise FlagError(f"--input_shapes={text}: the input {match['name']!r} has a shape already")
        dims = match["dims"]
        shapes[match["name"]] = tuple(int(dim) for dim in dims.split(",")) if dims else ()
    return shapes


def input_values(texts: Sequence[str]) -> Mapping[str, Any]:
    """Return the value per input name from texts like "phase_train=false": a bool, a number or lists of them.

    Raises:
      FlagError: when a text is not of that form, or names an input twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if not (name and value):
            raise FlagError(f"--set_input={text}: give NAME=VALUE, as in phase_train=false")
        if name in values:
            raise FlagError(f"--set_input={text}: the input {name!r} has a value already")
        values[name] = _value(value, text)
    return values


def numbers(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
    """Return numbers.

    Raises:
      FlagError: when a text is none.
    """
    try:
        return tuple(map(float, texts))
    except ValueError as error:
        raise FlagError(f"--{flag}={','.join(texts)}: give one number, or one per channel") from error


def _value(value: str, text: str) -> Any:
    """Read a value as JSON spells it, or Python."""
    try:
        parsed = json.loads(value)
    except ValueError:
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed = None
    if not _is_number(parsed):
        raise FlagError(f"--set_input={text}: give true, false, a number, or lists of them, as in size=[2,3]")
    return parsed


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number, a bool, or lists of these that make an array."""
    if isinstance(value, list | tuple):
        lengths = {len(item) if isinstance(item, list | tuple) else -1 for item in value}
        return len(lengths) <= 1 and all(map(_is_number, value))
    return isinstance(value, bool | int | float)
