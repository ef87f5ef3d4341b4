"""Rows put together to what a signature takes at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tf_bnfold.errors import InputError
from tf_bnfold.formats.model import SignatureDef
from tf_bnfold.formats.representative.source import Row, Source


class Batches:
    """The inputs of one signature, read anew whenever they are iterated.

    Rows at the end that make no whole batch are left out, as the shapes of all inputs are alike.

    Attributes:
      rows_each: Number of rows of a batch.
    """

    def __init__(self, source: Source, key: str, signature: SignatureDef, *, size: int, most: int) -> None:
        """Look at the first batch.

        Args:
          source: Where the rows are.
          key: The signature's key.
          signature: The signature.
          size: Rows of a batch where the signature leaves that open; fewer if there are fewer.
          most: Rows to take at most; but always one batch.

        Raises:
          InputError: If the data does not fit, or makes no batch.
        """
        self._source, self._signature, self._most = source, signature, most
        self._whose = f"signature {key}"
        fixed = max(
            (info.tensor_shape.dim[0].size for info in signature.inputs.values() if info.tensor_shape.dim), default=1
        )
        wanted = fixed if fixed > 0 else max(min(size, most), 1)
        there = sum(1 for _ in itertools.islice(self._rows(), wanted))
        if there < (wanted if fixed > 0 else 1):
            raise InputError(f"{source.path} has {there} rows, but {self._whose} takes {max(fixed, 1)} at once")
        self.rows_each = there

    def __iter__(self) -> Iterator[Row]:
        """Yield the batches."""
        rows = self._rows()
        for _ in range(max(self._most // self.rows_each, 1)):
            batch = list(itertools.islice(rows, self.rows_each))
            if len(batch) < self.rows_each:
                return
            yield {
                name: np.concatenate([row[name] for row in batch]) if first.ndim else first
                for name, first in batch[0].items()
            }

    def count(self) -> int | None:
        """Return the number of batches, None where only reading them all would tell."""
        rows = self._source.count(self._signature)
        return None if rows is None else max(min(rows, self._most) // self.rows_each, 1)

    def _rows(self) -> Iterator[Row]:
        return iter(self._source.rows(self._signature, self._whose))
