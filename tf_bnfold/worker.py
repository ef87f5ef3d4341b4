"""The child of the command: the one process that imports TensorFlow. It reads a Request, and writes Messages."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from tf_bnfold.clock import Clock
from tf_bnfold.errors import FoldError
from tf_bnfold.options import Request
from tf_bnfold.parent import end_with_parent
from tf_bnfold.report import Report

PLACE = "place"  # the step that renames outputs into place
CONVERT = "convert"  # the step in which the TFLite converter runs
INTERNAL = FoldError.exit_code


@dataclasses.dataclass(frozen=True)
class Step:
    """A step begins."""

    name: str


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the step is: so many inputs are done, of so many, None where that is not known."""

    done: int
    of: int | None


@dataclasses.dataclass(frozen=True)
class Found:
    """What is known so far."""

    report: Report


@dataclasses.dataclass(frozen=True)
class Done:
    """The run has succeeded, and its outputs are in place."""


@dataclasses.dataclass(frozen=True)
class Failed:
    """The run has ended with an error, and has written no model.

    Attributes:
      exit_code: What the command answers.
      message: What went wrong, and the way out.
      trace: The traceback, and what TensorFlow said.
    """

    exit_code: int
    message: str
    trace: str


Message = Step | Progress | Found | Done | Failed


def main(descriptor: int, parent: int) -> None:
    """Do the run that standard input asks for, send its Messages to the pipe, and end the process.

    Args:
      descriptor: Writable end of the pipe.
      parent: Process that waits for the result; the child ends with it and places nothing without it.
    """
    end_with_parent(parent)
    channel: Connection[Message, Message] = Connection(descriptor, readable=False)
    request: Request = pickle.load(sys.stdin.buffer)

    def on_step(name: str) -> None:
        if name == PLACE and os.getppid() != parent:
            os._exit(1)
        channel.send(Step(name))

    clock = Clock(on_step, _Seldom(lambda done, of: channel.send(Progress(done, of))))
    channel.send(_run(request, clock, lambda report: channel.send(Found(report))))
    os._exit(0)  # the outputs are in place: TensorFlow's teardown could only cost time, or crash


class _Seldom:
    """Passes progress on ten times a second at most, but the end of it always."""

    def __init__(self, tell: Callable[[int, int | None], None]) -> None:
        self._tell = tell
        self._next = 0.0

    def __call__(self, done: int, of: int | None) -> None:
        now = time.monotonic()
        if now >= self._next or done == of:
            self._next = now + 0.1
            self._tell(done, of)


def _run(request: Request, clock: Clock, on_report: Callable[[Report], None]) -> Done | Failed:
    try:
        with clock.step("start"):
            pipeline = importlib.import_module("tf_bnfold.pipeline")  # costs seconds: it imports TensorFlow
        pipeline.run(request, clock, on_report)
    except FoldError as error:
        return Failed(error.exit_code, str(error), traceback.format_exc())
    except MemoryError:
        return Failed(INTERNAL, "out of memory", traceback.format_exc())
    except Exception as error:  # noqa: BLE001 whatever it is, the user gets one line
        message = f"internal error, please report it: {type(error).__name__}: {error}"
        return Failed(INTERNAL, message, traceback.format_exc())
    return Done()
