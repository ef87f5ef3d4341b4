"""What TensorFlow's analyser says of a .tflite and the GPU delegate, as values. Nothing here needs TensorFlow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

from tf_bnfold.errors import FlagError
from tf_bnfold.options import Request

_WARNING = "GPU COMPATIBILITY WARNING: "
_COMPATIBLE = "Your model looks compatible with GPU delegate"
_SHOWN = 3  # ops per reason; the report file has them all
_UNREADABLE = "the analyser's text has a form that is not known here"


@dataclasses.dataclass(frozen=True)
class Operator:
    """An op of a .tflite.

    Attributes:
      type: Its type, for instance "CONV_2D"; of a custom op its own name.
      output: Name of its first output tensor; "" for none.
    """

    type: str
    output: str


@dataclasses.dataclass(frozen=True)
class Leaving:
    """An op of the .tflite that would leave the GPU delegate, and run on the CPU.

    Attributes:
      operator: The op.
      subgraph: Index of its subgraph.
      index: Its index in there.
      reason: Why, in the analyser's words.
    """

    operator: Operator
    subgraph: int
    index: int
    reason: str


@dataclasses.dataclass(frozen=True)
class GpuCompatibility:
    """The analyser's verdict on a .tflite.

    Attributes:
      ops: Number of all ops.
      leaving: Those that would leave the delegate, in order.
      note: Why nothing is known; "" where something is.
    """

    ops: int
    leaving: tuple[Leaving, ...] = ()
    note: str = ""

    @property
    def checked(self) -> bool:
        """Whether there is a verdict."""
        return not self.note

    def lines(self) -> Iterator[str]:
        """Yield the verdict in words: a line, and one for each reason with the first ops that have it."""
        if not self.checked:
            yield f"not checked: {self.note}"
        elif not self.leaving:
            yield f"takes all {self.ops} ops, by TensorFlow's analyser"
        else:
            yield f"{len(self.leaving)} of {self.ops} ops would leave it for the CPU, by TensorFlow's analyser:"
        by_reason: dict[str, list[Operator]] = {}
        for op in self.leaving:
            by_reason.setdefault(op.reason, []).append(op.operator)
        for reason, operators in by_reason.items():
            named = ", ".join(_named(operator, reason) for operator in operators[:_SHOWN])
            more = f" and {len(operators) - _SHOWN} more" if len(operators) > _SHOWN else ""
            yield f"  {reason.rstrip('.')}: {named}{more}"


def _named(operator: Operator, reason: str) -> str:
    return operator.output if operator.type in reason else f"{operator.type} {operator.output}"


def check_gpu_compatibility(request: Request) -> None:
    """Check that there is a .tflite to ask about.

    Raises:
      FlagError: If there is none.
    """
    if request.options.gpu_compatibility and not request.tflite:
        raise FlagError("--gpu_compatibility is for a .tflite: give --tflite FILE, or drop it")


def read_analysis(text: str, subgraphs: tuple[tuple[Operator, ...], ...]) -> GpuCompatibility:
    """Return what the analyser printed, as values.

    It names an op by its place; its type and its output are read from the .tflite itself. Each subgraph has a line with
    all the places: where the lines of the ops say anything else, the text is not understood, and there is no verdict.

    Args:
      text: What `tf.lite.experimental.Analyzer.analyze(gpu_compatibility=True)` printed.
      subgraphs: The ops of the .tflite, by subgraph.
    """
    count = sum(map(len, subgraphs))
    reasons, places = dict(_reasons(text)), set(_places(text))
    if set(reasons) != places or (not places and _COMPATIBLE not in text):
        return GpuCompatibility(count, note=_UNREADABLE)
    try:
        return GpuCompatibility(count, tuple(_leaving(reasons, subgraphs)))
    except IndexError:
        return GpuCompatibility(count, note=_UNREADABLE)


def _reasons(text: str) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield the place of each op that has a warning, and the warning."""
    subgraph, index = -1, -1
    for line in text.splitlines():
        if match := re.match(r"Subgraph#(\d+) ", line):
            subgraph = int(match[1])
        elif match := re.match(r"  Op#(\d+) ", line):
            index = int(match[1])
        elif line.startswith(_WARNING) and not line.startswith(f"{_WARNING}Subgraph#"):
            yield (subgraph, index), line.removeprefix(_WARNING).strip()


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Yield the place of each op that the summary of its subgraph names."""
    summary = rf"^{_WARNING}Subgraph#(\d+) has GPU delegate compatibility issues at nodes (\d+(?:, \d+)*) "
    for subgraph, indices in re.findall(summary, text, re.MULTILINE):
        yield from ((int(subgraph), int(index)) for index in indices.split(","))


def _leaving(reasons: Mapping[tuple[int, int], str], subgraphs: tuple[tuple[Operator, ...], ...]) -> Iterator[Leaving]:
    for (subgraph, index), reason in reasons.items():
        yield Leaving(subgraphs[subgraph][index], subgraph, index, reason)
