"""The stage that makes a SavedModel of what is none."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable

from tf_bnfold.clock import Clock
from tf_bnfold.formats.endpoints import endpoints_note
from tf_bnfold.options import Request
from tf_bnfold.outputs import Staging
from tf_bnfold.targets import work_folder

Export = Callable[[str], str]


def as_saved_model(
    request: Request, export: Export | None, staging: Staging, clock: Clock
) -> tuple[Request, tuple[str, ...]]:
    """Export a Keras model or a Python object, so that the rest of the run reads a SavedModel.

    Args:
      request: The request.
      export: Writes the input as a SavedModel into a folder, and says what it is; None where the request names a file.
      staging: Where the export lies until the run ends.
      clock: Times the step.

    Returns:
      The request that reads the export, and sentences for the report.

    Raises:
      InputError: If the input can't be exported.
    """
    options = request.options
    if request.keras_model:
        keras_file = importlib.import_module("tf_bnfold.formats.keras_file")  # it imports h5py
        allow_lambda = options.allow_unsafe_deserialization
        export = functools.partial(keras_file.export_keras_file, request.keras_model, allow_lambda=allow_lambda)
    notes: tuple[str, ...] = ()
    if export is not None:
        folder = str(staging.scratch(work_folder(request)) / "original")
        with clock.step("export"):
            notes = (export(folder),)
        request = dataclasses.replace(request, saved_model=folder)
    if request.output_saved_model and not request.frozen_graph:
        notes += endpoints_note(request.saved_model, options.tags)
    return request, notes
