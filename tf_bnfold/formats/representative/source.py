"""What all kinds of representative data have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_bnfold.errors import InputError
from tf_bnfold.formats.model import SignatureDef, TensorInfo

Array = npt.NDArray[Any]
Row = Mapping[str, Array]  # by input name; each has a first axis of size 1, apart from scalars

FLAG = "--representative_data"


class Source(Protocol):
    """Rows of the inputs of a model."""

    @property
    def path(self) -> str:
        """Where they are, as the user gave it."""
        ...

    def rows(self, signature: SignatureDef, whose: str) -> Iterator[Row]:
        """Yield the rows for a signature, each with all its inputs in their dtypes.

        Args:
          signature: The signature.
          whose: What to call it in a message.

        Raises:
          InputError: If the data can't be read or does not fit.
        """
        ...

    def count(self, signature: SignatureDef) -> int | None:
        """Return the number of rows, None where only reading them all would tell. The data must fit the signature."""
        ...


def files_below(folder: str, suffixes: Sequence[str]) -> list[str]:
    """List the files with these suffixes in a folder and those below it, in the order of their names."""
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        there = (name for name in names if name.lower().endswith(tuple(suffixes)) and not name.startswith("."))
        found += [os.path.join(here, name) for name in there]
    return sorted(found)


def known_shape(info: TensorInfo) -> list[int | None] | None:
    """Return an input's shape without its first axis; None where the rank is unknown or there is no first axis."""
    shape = tf.TensorShape(info.tensor_shape)
    return None if not shape.rank else shape.as_list()[1:]


def checked_shape(shape: Sequence[int], info: TensorInfo, what: str) -> None:
    """Check that an array, first axis the batch, can be fed to an input."""
    known = tf.TensorShape(info.tensor_shape)
    if known.rank not in (None, len(shape)) or not known[1:].is_compatible_with(shape[1:]):
        raise InputError(f"{what} has shape {list(shape)}, but the input is {known.as_list()}")


def checked_dtype(dtype: np.dtype[Any], info: TensorInfo, what: str) -> None:
    """Check that values of a dtype can be fed to an input without more than rounding."""
    wanted = tf.as_dtype(info.dtype)
    if wanted != tf.string and not np.can_cast(dtype, wanted.as_numpy_dtype, "same_kind"):
        raise InputError(f"{what} has dtype {dtype}, which is no {wanted.name}")


def converted(value: Array, info: TensorInfo, what: str) -> Array:
    """Return values in the dtype of an input.

    Raises:
      InputError: If some are not finite.
    """
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return value.astype(object)
    if not np.isfinite(value).all():
        raise InputError(f"{what} has values that are not finite, on which nothing can be compared")
    return value.astype(dtype.as_numpy_dtype)
