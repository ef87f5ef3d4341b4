"""Arrays by input name: an .npz file, or a folder of .npy files. Rows are read as they are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from tf_bnfold.errors import InputError
from tf_bnfold.formats.model import SignatureDef, TensorInfo
from tf_bnfold.formats.representative.source import FLAG, Array, Row, checked_dtype, checked_shape, converted

_UNREADABLE = (ValueError, OSError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_HEADERS: Mapping[tuple[int, int], Callable[[IO[bytes]], Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def npz_file(path: str) -> Arrays:
    """Return the arrays of an .npz file.

    Raises:
      InputError: If it is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
    except zipfile.BadZipFile as error:
        raise InputError(f"{FLAG} {path} is no .npz archive; write it with numpy.savez") from error
    except _UNREADABLE as error:
        raise InputError(f"{FLAG} {path} can not be read as an .npz archive: {error}") from error

    openers = {name.removesuffix(".npy"): functools.partial(_opened, path, name) for name in names}
    return Arrays(path, "an .npz archive", openers)


@contextlib.contextmanager
def _opened(path: str, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        yield file


def npy_folder(path: str, files: Sequence[str]) -> Arrays:
    """Return the arrays of a folder: each file holds the input of its name; "a/b.npy" that of input "a/b"."""
    names = {os.path.splitext(os.path.relpath(file, path))[0].replace(os.sep, "/"): file for file in files}
    openers = {name: functools.partial(_file, file) for name, file in names.items()}
    return Arrays(path, "a folder of .npy files", openers)


def _file(path: str) -> IO[bytes]:
    return open(path, "rb")


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One array per input name, first axis the batch; a scalar holds for all rows.

    Attributes:
      path: Where they are.
      kind: What that is called.
      files: What opens each .npy file, by input name.
    """

    path: str
    kind: str
    files: Mapping[str, Callable[[], AbstractContextManager[IO[bytes]]]]

    def rows(self, signature: SignatureDef, whose: str) -> Iterator[Row]:
        """See `Source`."""
        with contextlib.ExitStack() as stack:
            columns: dict[str, Iterator[Array]] = {}
            sizes: dict[str, int] = {}
            for name, info in sorted(signature.inputs.items()):
                column = self._column(name, info, whose, stack)
                columns[name] = column.values()
                if column.shape:
                    sizes[name] = column.shape[0]
            if len(set(sizes.values())) > 1:
                raise InputError(f"the arrays of {self.path} differ in their number of rows: {sizes}")
            for _ in range(max(sizes.values(), default=1)):
                yield {name: self._next(values) for name, values in columns.items()}

    def count(self, signature: SignatureDef) -> int | None:
        """See `Source`."""
        with contextlib.ExitStack() as stack:
            columns = [self._column(name, info, "", stack) for name, info in signature.inputs.items()]
            return max((column.shape[0] for column in columns if column.shape), default=1)

    def _column(self, name: str, info: TensorInfo, whose: str, stack: contextlib.ExitStack) -> _Column:
        if name not in self.files:
            there = ", ".join(sorted(self.files)) or "nothing"
            raise InputError(f"{FLAG} {self.path} has no array {name} for {whose}; it has: {there}")
        with self._reading():
            column = _column(stack.enter_context(self.files[name]()), info, f"array {name} of {self.path}")
        checked_shape(column.shape, info, column.what)
        checked_dtype(column.dtype, info, column.what)
        return column

    def _next(self, values: Iterator[Array]) -> Array:
        with self._reading():
            return next(values)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            raise InputError(f"{FLAG} {self.path} can not be read as {self.kind}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Column:
    """An open .npy file, behind its header."""

    file: IO[bytes]
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    info: TensorInfo
    what: str

    def values(self) -> Iterator[Array]:
        """Yield the rows, each with a first axis of size 1; a scalar forever."""
        if not self.shape:
            value = converted(self._read(()), self.info, self.what)
            while True:
                yield value
        if self.is_fortran:  # a row is spread over the whole file
            whole = self._read(self.shape[::-1]).T
            yield from (converted(whole[row : row + 1], self.info, self.what) for row in range(len(whole)))
            return
        for _ in range(self.shape[0]):
            yield converted(self._read((1, *self.shape[1:])), self.info, self.what)

    def _read(self, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * self.dtype.itemsize
        content = self.file.read(size)
        if len(content) < size:
            raise EOFError(f"{self.what} ends before its shape {list(self.shape)} is filled")
        return np.frombuffer(content, self.dtype).reshape(shape)


def _column(file: IO[bytes], info: TensorInfo, what: str) -> _Column:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{what} has version {version} of the .npy format")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects, which are not loaded")
    return _Column(file, shape, is_fortran, dtype, info, what)
