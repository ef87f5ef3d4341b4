"""A TFRecord file of tf.Examples, one a row; the names of its features are those of the inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tf_bnfold.errors import InputError
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import SignatureDef, TensorInfo
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.representative.source import FLAG, Array, Row, checked_dtype, converted, known_shape

_DTYPES = {"float_list": np.float32, "int64_list": np.int64, "bytes_list": object}
_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Records:
    """A TFRecord file, as it is or compressed by gzip.

    Attributes:
      path: The file.
    """

    path: str

    def rows(self, signature: SignatureDef, whose: str) -> Iterator[Row]:
        """See `Source`."""
        for number, record in enumerate(self._records()):
            what = f"record {number} of {self.path}"
            try:
                features = tf.train.Example.FromString(record).features.feature
            except DecodeError as error:
                raise InputError(f"{what} is no tf.Example") from error
            yield {name: _value(features, name, info, what, whose) for name, info in sorted(signature.inputs.items())}

    def count(self, signature: SignatureDef) -> int | None:
        """See `Source`."""
        del signature
        return None

    def _records(self) -> Iterator[bytes]:
        try:
            with open(self.path, "rb") as file:
                compression = "GZIP" if file.read(2) == _GZIP else ""
            with quiet():  # it is deprecated for tf.data, which can not be iterated while a graph is built
                records = tf.compat.v1.io.tf_record_iterator(
                    self.path, tf.io.TFRecordOptions(compression_type=compression)
                )
            yield from records
        except (tf.errors.OpError, OSError) as error:
            raise InputError(
                f"{FLAG} {self.path} can not be read as TFRecord: {one_line(error)}; "
                "other data is an .npz file or a folder"
            ) from error


def _value(features: Any, name: str, info: TensorInfo, what: str, whose: str) -> Array:
    if name not in features:
        there = ", ".join(sorted(features)) or "nothing"
        raise InputError(f"{what} has no feature {name} for {whose}; it has: {there}")
    what = f"feature {name} of {what}"
    kind = features[name].WhichOneof("kind") or "float_list"
    value = np.array(getattr(features[name], kind).value, _DTYPES[kind])
    if (kind == "bytes_list") != (info.dtype == tf.string.as_datatype_enum):
        raise InputError(f"{what} is a {kind}, but the input is {tf.as_dtype(info.dtype).name}")
    value = value.reshape(_shape(value.size, info, what))
    return converted(_narrowed(value, info, what), info, what)


def _shape(size: int, info: TensorInfo, what: str) -> list[int]:
    """Return the shape of a row; a tf.Example does not say it, so at most one dimension may be unknown."""
    if not info.tensor_shape.unknown_rank and not info.tensor_shape.dim:
        known: list[int | None] = []
    else:
        inner = known_shape(info)
        if inner is None or inner.count(None) > 1:
            raise InputError(f"the shape of {what} is not known: give it with --input_shapes")
        known = [1, *inner]
    rest = math.prod(dim for dim in known if dim is not None)
    if (rest == 0 or size % rest) if None in known else size != rest:
        raise InputError(f"{what} has {size} values, but the input is {tf.TensorShape(info.tensor_shape)}")
    return [size // rest if dim is None else dim for dim in known]


def _narrowed(value: Array, info: TensorInfo, what: str) -> Array:
    """Return integers, which a tf.Example has in 64 bits only, as those of the input where all fit."""
    dtype = tf.as_dtype(info.dtype)
    if value.dtype == np.int64 and (dtype.is_integer or dtype == tf.bool):
        narrow = value.astype(dtype.as_numpy_dtype)
        if (narrow != value).any():
            raise InputError(f"{what} has values that {dtype.name} can not hold")
        return narrow
    checked_dtype(value.dtype, info, what)
    return value
