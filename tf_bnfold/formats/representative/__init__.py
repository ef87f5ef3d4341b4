"""Representative data: what a model is calibrated and compared on, read row by row from what the user has."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence

from tf_bnfold.errors import FlagError, InputError
from tf_bnfold.formats.representative.arrays import npy_folder, npz_file
from tf_bnfold.formats.representative.batches import Batches
from tf_bnfold.formats.representative.pictures import SUFFIXES, Pictures
from tf_bnfold.formats.representative.records import Records
from tf_bnfold.formats.representative.source import FLAG, Source, files_below

__all__ = ["Batches", "Source", "open_source"]


def open_source(path: str, *, image_mean: Sequence[float] = (0.0,), image_std: Sequence[float] = (1.0,)) -> Source:
    """Find out what the data is; rows are read later, when they are asked for.

    Args:
      path: An .npz file, a TFRecord file of tf.Examples, a folder of .npy files or one of pictures.
      image_mean: Subtracted from the pixels (0 to 255) of pictures, one number or one per channel.
      image_std: What they are divided by then.

    Returns:
      The source.

    Raises:
      InputError: If there is nothing at the path that can be data.
      FlagError: If mean or deviation are given for data that is no pictures.
    """
    has_pixels = (tuple(image_mean), tuple(image_std)) != ((0.0,), (1.0,))
    if os.path.isdir(path):
        arrays, pictures = files_below(path, (".npy",)), files_below(path, SUFFIXES)
        if arrays and pictures:
            raise InputError(f"{FLAG} {path} holds arrays ({arrays[0]}) and pictures ({pictures[0]}); give one kind")
        if pictures:
            return Pictures(path, pictures, tuple(image_mean), tuple(image_std))
        if not arrays:
            raise InputError(f"{FLAG} {path} holds no .npy, {', '.join(SUFFIXES)} file, in no folder below it either")
    elif not os.path.isfile(path):
        raise InputError(f"{FLAG} {path} is not a file, and no folder")
    if has_pixels:
        raise FlagError(f"--image_mean and --image_std are for a folder of pictures, which {path} is not")
    if os.path.isdir(path):
        return npy_folder(path, arrays)
    if path.lower().endswith((".npy", *SUFFIXES)):
        raise InputError(f"{FLAG} {path} is one file of several: give the folder that holds it")
    if path.endswith(".npz") or zipfile.is_zipfile(path):
        return npz_file(path)
    return Records(path)
