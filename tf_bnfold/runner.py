"""The parent's side of the child: start it, follow it, and turn its end, however it comes, into report and error."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import IO

from tf_bnfold.errors import ConverterError
from tf_bnfold.options import Request
from tf_bnfold.outputs import sweep
from tf_bnfold.report import Report
from tf_bnfold.targets import targets
from tf_bnfold.worker import CONVERT, INTERNAL, Done, Failed, Found, Message, Progress

OnStep = Callable[[str, Progress | None], None]

_TAIL = 16_384  # bytes of the child's own output that a failure shows
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "1",  # no start-up banners; warnings and errors explain a failure
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # leave the memory of a shared GPU to others
    "KERAS_HOME": os.devnull,  # else Keras makes ~/.keras and writes its settings there
}


def run(request: Request, on_step: OnStep) -> tuple[Report | None, Failed | None]:
    """Run the request in a child process.

    When this is interrupted by an exception the child is killed, and nothing it was about to write is left.

    Args:
      request: What to do.
      on_step: Called with the name of each step that begins, and again with how far it is.

    Returns:
      What was found, if anything, and why the run failed, if it did.
    """
    with tempfile.TemporaryFile() as chatter:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        with receiver, sender:
            process = _start(request, sender, chatter)
            sender.close()  # so that the child's end is the end of the messages
            try:
                last, step, report = _follow(receiver, on_step)
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                _clean_up(request)
        if isinstance(last, Done):
            return report, None
        failed = last if isinstance(last, Failed) else _crashed(step, code)
        return report, dataclasses.replace(failed, trace=f"{_tail(chatter)}\n{failed.trace}".strip())


def _start(request: Request, sender: Connection[Message, Message], chatter: IO[bytes]) -> subprocess.Popen[bytes]:
    # Not `-m`: that would look for modules in the working folder first, where a user may have an onnx.py.
    call = f"from tf_bnfold.worker import main; main({sender.fileno()}, {os.getpid()})"
    with tempfile.TemporaryFile() as stdin:
        stdin.write(pickle.dumps(request))
        stdin.seek(0)
        return subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {call}"],
            stdin=stdin,
            stdout=chatter,
            stderr=chatter,
            pass_fds=[sender.fileno()],
            env={**_ENVIRONMENT, **os.environ},
            start_new_session=True,  # ctrl-C reaches this process only, which ends the child
        )


def _follow(receiver: Connection[Message, Message], on_step: OnStep) -> tuple[Done | Failed | None, str, Report | None]:
    """Return the child's last word, None if it died without one, the step it was in, and the last report."""
    step, report = "start", None
    while True:
        try:
            message = receiver.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # it died, maybe in the middle of a message
            return None, step, report
        if isinstance(message, Done | Failed):
            return message, step, report
        if isinstance(message, Found):
            report = message.report
        elif isinstance(message, Progress):
            on_step(step, message)
        else:
            step = message.name
            on_step(step, None)


def _crashed(step: str, code: int) -> Failed:
    """Return what to say of a child that ended without a word."""
    if code == -signal.SIGKILL:
        return Failed(INTERNAL, f"killed in step {step!r}, most likely because the memory was used up", "")
    end = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    if step == CONVERT:
        message = f"the TFLite converter {end}; --verbosity=1 shows what it said, --dry_run reports without it"
        return Failed(ConverterError.exit_code, message, "")
    return Failed(INTERNAL, f"TensorFlow {end} in step {step!r}; --verbosity=1 shows what it said", "")


def _tail(chatter: IO[bytes]) -> str:
    chatter.seek(0, os.SEEK_END)
    chatter.seek(max(0, chatter.tell() - _TAIL))
    return chatter.read().decode(errors="replace").strip()


def _clean_up(request: Request) -> None:
    """Remove the work folders of the child, which is dead."""
    folders = {os.path.dirname(os.path.realpath(path)) for path in targets(request).values()}
    for folder in folders | ({tempfile.gettempdir()} if request.options.dry_run else set()):
        sweep(folder)
