"""Compare a quantised .tflite with the float graph: how much it lost, and whether that is still the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.tflite import signatures_to_convert
from tf_bnfold.verify.litert import LiteRT, reason
from tf_bnfold.verify.measure import is_telling
from tf_bnfold.verify.nature import changeable_nodes, deciding_nodes, reach
from tf_bnfold.verify.samples import Samples
from tf_bnfold.verify.session import feeds_of, fetches_of, opened
from tf_bnfold.verify.values import Array, LeftOut, NotVerified


@dataclasses.dataclass(frozen=True)
class Quality:
    """How well one output of a quantised model is that of the float model, over all runs.

    Attributes:
      error: max|a-b| / max|b|; inf for a new NaN or infinity, or where the output is missing; None for integers.
      sqnr: Signal to quantisation noise, 10 log10(sum(b**2) / sum((a-b)**2)), in dB; None where nothing differs, or for
        integers.
      top1: Share of the rows with the same largest class, where the output is floats [batch, classes]; else None.
      share: Share of differing elements, of integers and booleans; 0 for floats.
      floor: The SQNR below which it fails; None where it is not judged by that.
    """

    error: float | None
    sqnr: float | None
    top1: float | None
    share: float
    floor: float | None

    @property
    def failed(self) -> bool:
        """Tell whether it is no longer the output of the model."""
        if self.error is not None and not math.isfinite(self.error):
            return True
        return self.floor is not None and self.sqnr is not None and not self.sqnr >= self.floor


@dataclasses.dataclass(frozen=True)
class QuantisedComparison:
    """What the comparison of a quantised model with the float one found.

    Attributes:
      compared: What was compared with what.
      outputs: By `signature: output`.
      samples: Number of runs.
      left_out: Why an output was not compared, by name.
    """

    compared: str
    outputs: Mapping[str, Quality]
    samples: int
    left_out: Mapping[str, LeftOut] = dataclasses.field(default_factory=dict)

    @property
    def failed(self) -> tuple[str, ...]:
        """Name the outputs that are too far from those of the float model."""
        return tuple(name for name, quality in self.outputs.items() if quality.failed)

    @property
    def failure(self) -> str:
        """Say what failed, "" where nothing did."""
        if not self.failed:
            return ""
        worst = self.outputs[self.failed[0]]
        lost = (
            f"has an SQNR of {worst.sqnr:.1f} dB, less than {worst.floor:g} dB"
            if worst.error is not None and math.isfinite(worst.error)
            else "has values that are not finite, or is missing"
        )
        return (
            f"{self.compared}: {len(self.failed)} of {len(self.outputs)} outputs are too far off, first "
            f"{self.failed[0]}, which {lost}"
        )

    @property
    def advice(self) -> str:
        """Say what the user can do about a failure."""
        return "--min_sqnr sets the floor, docs/quantisation.md says what raises the SQNR"


def verify_quantised(
    folded: Model, content: bytes, samples: Samples | NotVerified, *, floor: float, compared: str
) -> QuantisedComparison | NotVerified:
    """Compare the outputs of a quantised .tflite, run by LiteRT, with those of the float graph it was converted from.

    Args:
      folded: The model that was converted.
      content: The flatbuffer.
      samples: Inputs, from `make_samples`.
      floor: The SQNR in dB that a float output must have; not asked of outputs behind a discontinuous op (TopK,
        NonMaxSuppression, ...), which a small difference may tip.
      compared: What the comparison is called.

    Returns:
      What was found.
    """
    if isinstance(samples, NotVerified):
        return NotVerified(compared, f"{samples.compared}: {samples.reason}")
    unrepeatable = reach(folded.graph_def, changeable_nodes(folded.graph_def))
    undecided = reach(folded.graph_def, deciding_nodes(folded.graph_def))
    sums: dict[str, _Sums] = {}
    left_out: dict[str, LeftOut] = {}
    refusal, runs = "", 0
    try:
        interpreter = LiteRT(content)
        for key in signatures_to_convert(folded):
            interpreter = LiteRT(content) if folded.state else interpreter  # state starts from its initial value
            signature = folded.signatures[key]
            fetches = {name: tensor for name, tensor in fetches_of(signature).items() if tensor not in unrepeatable}
            left_out |= {
                f"{key}: {name}": LeftOut.UNREPEATABLE for name in fetches_of(signature).keys() - fetches.keys()
            }
            with opened(folded) as graph:
                for inputs in samples[key]:
                    try:
                        values = graph.run(list(fetches.values()), feeds_of(signature, inputs))
                    except tf.errors.OpError as error:  # verify_saved_model tells a fault from an input out of range
                        refusal = f"the graph can not take the inputs: {one_line(error)}"
                        continue
                    found = interpreter.run(key, inputs)
                    runs += 1
                    for (name, tensor), expected in zip(fetches.items(), values, strict=True):
                        judged = sums.setdefault(f"{key}: {name}", _Sums(None if tensor in undecided else floor))
                        judged.add(found.get(name), expected)
    except (RuntimeError, ValueError) as error:
        return NotVerified(compared, f"LiteRT can not run it here: {reason(error)}")
    outputs = {name: judged.quality() for name, judged in sums.items()}
    silent = {name: judged for name, judged in sums.items() if judged.is_silent and not outputs[name].failed}
    left_out |= {name: LeftOut.NOT_FINITE if judged.elements else LeftOut.EMPTY for name, judged in silent.items()}
    compared_ones = {name: quality for name, quality in outputs.items() if name not in left_out}
    if not compared_ones:
        reasons = dict.fromkeys(reason.value for reason in left_out.values())
        return NotVerified(compared, refusal or f"every output is left out: {'; '.join(reasons)}")
    return QuantisedComparison(compared, compared_ones, runs, left_out)


@dataclasses.dataclass
class _Sums:
    """One output so far."""

    floor: float | None
    noise: float = 0.0
    signal: float = 0.0
    largest_noise: float = 0.0
    largest_signal: float = 0.0
    rows: int = 0
    agreeing: int = 0
    elements: int = 0
    differing: int = 0
    is_float: bool = False
    is_silent: bool = True  # no run has told anything

    def add(self, found: Array | None, expected: Array) -> None:
        """Add a run."""
        self.is_float = expected.dtype.kind in "fc" or expected.dtype.name == "bfloat16"
        self.elements += expected.size
        self.is_silent = self.is_silent and not (expected.size and is_telling(expected))
        if found is None or found.shape != expected.shape:
            self.largest_noise, self.differing = math.inf, self.differing + expected.size
        elif not self.is_float:
            self.differing += int(np.sum(found != expected))
        elif expected.size:
            self._add_numbers(
                *(value.astype(np.float64 if value.dtype.kind != "c" else complex) for value in (found, expected))
            )

    def _add_numbers(self, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
        finite = np.isfinite(expected)
        with np.errstate(invalid="ignore", over="ignore"):
            noise = np.where(finite, np.abs(np.where(finite, found - expected, 0.0)), 0.0)
        noise = np.where(np.isnan(noise), math.inf, noise)
        signal = np.where(finite, np.abs(expected), 0.0)
        self.noise += float(np.sum(noise**2))
        self.signal += float(np.sum(signal**2))
        self.largest_noise = max(self.largest_noise, float(noise.max()))
        self.largest_signal = max(self.largest_signal, float(signal.max()))
        if expected.ndim == 2 and expected.shape[1] > 1 and expected.dtype.kind == "f":
            self.rows += len(expected)
            self.agreeing += int(np.sum(found.argmax(1) == expected.argmax(1)))

    def quality(self) -> Quality:
        """Return what all runs together say."""
        share = 0.0 if self.is_float else self.differing / max(self.elements, 1)
        if not self.is_float:
            return Quality(math.inf if math.isinf(self.largest_noise) else None, None, None, share, None)
        sqnr = None
        if self.noise:
            with np.errstate(divide="ignore"):
                sqnr = float(10 * np.log10(self.signal / self.noise)) if math.isfinite(self.noise) else None
        error = self.largest_noise / (self.largest_signal or 1.0)
        return Quality(error, sqnr, self.agreeing / self.rows if self.rows else None, share, self.floor)
