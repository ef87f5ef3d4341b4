"""The stage that makes a .tflite of the folded graph, quantised or not, and compares it."""

from __future__ import annotations

import dataclasses
import os
import tempfile

from tf_bnfold import verify
from tf_bnfold.clock import Clock
from tf_bnfold.flatbuffer import float_ops, op_counts, operators
from tf_bnfold.formats.analyser import gpu_analysis, why_no_gpu_analysis
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.quantisation import Quantisation
from tf_bnfold.formats.representative import Source, open_source
from tf_bnfold.formats.tflite import convert_to_tflite
from tf_bnfold.formats.widen import widened
from tf_bnfold.gpu import GpuCompatibility, read_analysis
from tf_bnfold.options import Options, Request
from tf_bnfold.outputs import Staging, writing
from tf_bnfold.quantisation import CALIBRATED
from tf_bnfold.report import Size


def source_of(options: Options) -> Source | None:
    """Return the user's data, None where there is none.

    Raises:
      InputError: If there is nothing at its path that can be data.
      FlagError: If it is given a mean or a deviation, and is no pictures.
    """
    if not options.representative_data:
        return None
    return open_source(options.representative_data, image_mean=options.image_mean, image_std=options.image_std)


@dataclasses.dataclass(frozen=True)
class TFLite:
    """The stage of one run.

    Attributes:
      request: The request.
      source: The user's data.
      staging: Where work files lie.
      clock: Times the steps, and is told how far calibration is.
    """

    request: Request
    source: Source | None
    staging: Staging
    clock: Clock

    def convert(self, model: Model) -> bytes:
        """Convert a folded model, `as_computed`.

        The converter's own files lie beside the .tflite, or with a dry run among the temporary files.

        Raises:
          FoldError: If the converter refuses it, or it can't be calibrated.
        """
        options = self.request.options
        target = self.request.tflite
        folder = tempfile.gettempdir() if options.dry_run else os.path.dirname(os.path.abspath(target))
        quantisation = Quantisation(
            options.quantize,
            options.inference_input_type,
            options.inference_output_type,
            self.source,
            options.calibration_samples,
            self.clock.progress,
        )
        with self.clock.step("convert"), writing(target):
            return convert_to_tflite(
                model,
                work_dir=str(self.staging.scratch(folder)),
                allow_select_tf_ops=options.allow_select_tf_ops,
                allow_custom_ops=options.allow_custom_ops,
                quantisation=quantisation,
            )

    def as_computed(self, model: Model) -> Model:
        """Return the model in the dtypes in which the .tflite computes, and what there is to note of that."""
        return widened(model) if self.request.options.widen_to_float32 else model

    def compare(
        self, folded: Model, content: bytes, samples: verify.Samples | verify.NotVerified
    ) -> verify.Comparison | verify.QuantisedComparison | verify.NotVerified:
        """Compare the .tflite with the folded graph; with custom ops, which nothing here runs, what is before them."""
        options, compared, what = self.request.options, verify.runnable(folded), verify.TFLITE
        if compared is not folded:
            content, what = self.convert(self.as_computed(compared)), verify.UP_TO_CUSTOM_OPS
        with self.clock.step("verify_tflite"):
            if options.quantize == "none":
                return verify.verify_tflite(compared, content, samples, rtol=options.rtol, compared=what)
            what = f"{options.quantize} {what}"
            return verify.verify_quantised(compared, content, samples, floor=options.min_sqnr, compared=what)

    def gpu_compatibility(self, content: bytes) -> GpuCompatibility | None:
        """Ask TensorFlow's analyser of a .tflite; None where the request does not."""
        if not self.request.options.gpu_compatibility:
            return None
        with self.clock.step("analyse"):
            ops, note = operators(content), why_no_gpu_analysis()
            return (
                GpuCompatibility(sum(map(len, ops)), note=note) if note else read_analysis(gpu_analysis(content), ops)
            )


def size_of(content: bytes) -> Size:
    """Return the size of a .tflite."""
    return Size(op_counts(content), len(content))


def left_float(content: bytes, mode: str) -> tuple[str, ...]:
    """Say which ops of a .tflite that was to compute with integers do not."""
    floats = float_ops(content) if mode in CALIBRATED else {}
    if not floats:
        return ()
    names = ", ".join(f"{count} {name}" for name, count in sorted(floats.items()))
    return (
        f"--quantize={mode}: ops without an integer form compute in float32: {names}; a chip for integers alone can "
        "not run them",
    )
