"""A folder of pictures for a model of one image input, decoded and resized by TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from tf_bnfold.errors import FlagError, InputError
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import SignatureDef, TensorInfo
from tf_bnfold.formats.representative.source import Array, Row, known_shape

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Picture files, one a row, in the order of their names.

    The whole picture is resized to height and width of the input, bilinear and with antialiasing, without keeping its
    aspect ratio; a picture of that size stays as it is. Then each pixel becomes `(pixel - mean) / std`, with pixels
    from 0 to 255.

    Attributes:
      path: The folder.
      files: The pictures.
      mean: One number, or one per channel.
      std: Likewise.
    """

    path: str
    files: tuple[str, ...] | list[str]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def rows(self, signature: SignatureDef, whose: str) -> Iterator[Row]:
        """See `Source`."""
        if len(signature.inputs) != 1:
            names = ", ".join(sorted(signature.inputs)) or "none"
            raise InputError(
                f"{self.path} holds pictures, which feed one input, but {whose} has: {names}; give an .npz"
            )
        ((name, info),) = signature.inputs.items()
        size = self._size(name, info)
        for file in self.files:
            yield {name: self._pixels(file, size, info)}

    def count(self, signature: SignatureDef) -> int | None:
        """See `Source`."""
        del signature
        return len(self.files)

    def _size(self, name: str, info: TensorInfo) -> tuple[int, int, int]:
        """Return height, width and channels of the input."""
        known = known_shape(info)
        if known is None or len(known) != 3 or known[-1] not in (1, 3, 4) or tf.as_dtype(info.dtype).is_complex:
            shape = tf.TensorShape(info.tensor_shape)
            raise InputError(
                f"{self.path} holds pictures, but input {name} of shape {shape} is no image: that would be "
                "[batch, height, width, 1, 3 or 4 channels]; give an .npz"
            )
        height, width, channels = known
        if height is None or width is None or channels is None:
            raise InputError(
                f"pictures are resized to the input, but {name} of shape {tf.TensorShape(info.tensor_shape)} has no "
                f"fixed size: give it, as in --input_shapes={name}:1,224,224,{channels}"
            )
        for flag, numbers in (("image_mean", self.mean), ("image_std", self.std)):
            if len(numbers) not in (1, channels):
                raise FlagError(f"--{flag} has {len(numbers)} numbers, but input {name} has {channels} channels")
        return height, width, channels

    def _pixels(self, file: str, size: tuple[int, int, int], info: TensorInfo) -> Array:
        height, width, channels = size
        try:
            with context.eager_mode(), tf.device("cpu"):
                pixels = tf.io.decode_image(tf.io.read_file(file), channels, expand_animations=False)
                if tuple(pixels.shape[:2]) != (height, width):
                    pixels = tf.image.resize(pixels, (height, width), antialias=True)
                value = np.asarray(pixels, np.float64)
        except (tf.errors.OpError, ValueError) as error:
            raise InputError(f"{file} can not be decoded: {one_line(error)}; repair it or take it out") from error
        return self._scaled(value, info, file)[None]

    def _scaled(self, pixels: Array, info: TensorInfo, file: str) -> Array:
        dtype = tf.as_dtype(info.dtype)
        value: Array = (pixels - np.array(self.mean)) / np.array(self.std)
        if not dtype.is_integer:
            return value.astype(dtype.as_numpy_dtype)
        value = value.round()
        if value.min() < dtype.min or value.max() > dtype.max:
            raise InputError(
                f"{file} has values from {value.min():g} to {value.max():g}, which the input's {dtype.name} can not "
                "hold; set --image_mean and --image_std"
            )
        return value.astype(dtype.as_numpy_dtype)
