"""The command: flags in, exit code out. This process never imports TensorFlow, so that it answers at once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from tf_bnfold import compare, flags, runner
from tf_bnfold.errors import FoldError
from tf_bnfold.options import Request
from tf_bnfold.report import Report
from tf_bnfold.table import comparison_text, explanation_text, table
from tf_bnfold.targets import check_paths
from tf_bnfold.version import __version__
from tf_bnfold.worker import Progress

_STEPS = {
    "start": "starting TensorFlow",
    "export": "exporting the Keras model",
    "load": "loading the model",
    "fold": "folding",
    "verify": "comparing the folded graph with the original",
    "convert": "converting to TFLite",
    "convert_onnx": "converting to ONNX",
    "verify_onnx": "comparing the .onnx with the folded graph",
    "analyse": "asking TensorFlow's analyser about the GPU delegate",
    "verify_tflite": "comparing the .tflite with the folded graph",
    "place": "writing",
}


_BAR = 30  # characters


class _Terminated(BaseException):
    """A signal asks the command to end; no Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
      argv: The command line, program name first; that of this process by default.
    """
    argv = sys.argv if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be what the terminal's encoding does not have
            stream.reconfigure(errors="backslashreplace")
    try:
        with _termination():
            return _main(argv)
    except FoldError as error:
        _print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted")
        return 128 + signal.SIGINT
    except _Terminated as end:
        _print_error(f"ended by {signal.Signals(end.number).name}")
        return 128 + end.number


def _main(argv: Sequence[str]) -> int:
    values = flags.parse(argv)
    if values["help"] or values["version"]:
        _print(flags.help_text() if values["help"] else f"tf_bnfold {__version__}")
        return 0
    request = flags.request(values, ["tf_bnfold", *argv[1:]])
    check_paths(request)
    old = compare.read_report(request.compare) if request.compare else None
    parts = _Parts(request.compare, old, table=not flags.only_explains(values))
    return _run(request, parts, verbosity=values["verbosity"])


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What is printed of a report, beside the explanations that were asked for.

    Attributes:
      path: The file of an earlier report, "" for none.
      old: That report, None for none.
      table: Whether the whole report is printed.
    """

    path: str
    old: Mapping[str, Any] | None
    table: bool

    def text(self, report: Report) -> str:
        """Return what is printed."""
        width = min(shutil.get_terminal_size((120, 24)).columns, 120)
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        blocks = [table(report, width=width, colour=colour)] if self.table else []
        if self.old is not None:
            changes = compare.changes(self.old, report.to_dict())
            blocks.append(comparison_text(changes, self.path, width=width, colour=colour))
        if report.explanations:
            blocks.append(explanation_text(report.explanations, width=width, colour=colour))
        return "\n\n".join(blocks)


def _run(request: Request, parts: _Parts, *, verbosity: int) -> int:
    with _progress(show=verbosity >= 0 and sys.stderr.isatty()) as on_step:
        report, failed = runner.run(request, on_step)
    text = parts.text(report) if report and verbosity >= 0 else ""
    if text:
        _print(text)
    if failed is None:
        return 0
    if verbosity > 0:
        sys.stderr.write(f"{failed.trace}\n")
    _print_error(failed.message)
    return failed.exit_code


def _print(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has left, as `head` does; what is still in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(message: str) -> None:
    line = " ".join(message.split())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)  # no control sequences
    sys.stderr.write(f"tf_bnfold: error: {plain}\n")


def _bar(progress: Progress) -> str:
    """Return how far calibration is, the one step that tells, as a bar where its end is known."""
    if not progress.of:
        return f"calibrating: {progress.done} inputs"
    filled = _BAR * min(progress.done, progress.of) // progress.of
    return f"calibrating [{'=' * filled}{' ' * (_BAR - filled)}] {progress.done}/{progress.of}"


@contextlib.contextmanager
def _progress(*, show: bool) -> Iterator[runner.OnStep]:
    """Give a function that shows the step a run is in, on one line that goes away at the end."""
    clear = "\r\033[K"

    def on_step(name: str, progress: Progress | None) -> None:
        if show:
            done = _bar(progress) if progress else f"{_STEPS.get(name, name)} ..."
            sys.stderr.write(f"{clear}tf_bnfold: {done}")
            sys.stderr.flush()

    try:
        yield on_step
    finally:
        if show:
            sys.stderr.write(clear)
            sys.stderr.flush()


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, so that the child ends and its work folder goes."""

    def unwind(number: int, _: FrameType | None) -> NoReturn:
        raise _Terminated(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}  # nohup
    for number in before:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
