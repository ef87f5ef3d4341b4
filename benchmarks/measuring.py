"""How things are measured: figures, interleaved runs, peak memory, and what they were measured on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import datetime
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import tf_bnfold

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "tf2onnx", "onnxruntime", "numpy")
_MB = 2**20


@dataclasses.dataclass(frozen=True)
class Figure:
    """What was measured of one subject in one case.

    Attributes:
      case: What was done.
      subject: By what.
      quantity: What was measured, with its unit.
      samples: One number a run, in the order of the runs; those of one case were interleaved. Empty for none.
      note: What to know of it; why there are no samples.
    """

    case: str
    subject: str
    quantity: str
    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.samples)


def ratio(of: Figure, to: Figure) -> float:
    """Return the median of the ratios of runs that stood beside each other, else the ratio of the medians.

    What disturbs the machine for a while disturbs both of a pair.
    """
    if len(of.samples) == len(to.samples):
        return statistics.median(ours / theirs for ours, theirs in zip(of.samples, to.samples, strict=True))
    return of.median / to.median


def interleaved(
    actions: Mapping[str, Callable[[], float]], rounds: int, once_above: float = float("inf")
) -> dict[str, tuple[float, ...]]:
    """Run actions in turns, so that what disturbs one disturbs all.

    Args:
      actions: Each returns what it measured.
      rounds: Number of times that each is run; each round begins with another one.
      once_above: An action that measured more than this is not run again.

    Returns:
      What was measured, by name.
    """
    names = list(actions)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            if not found[name] or found[name][0] <= once_above:
                found[name].append(actions[name]())
    return {name: tuple(samples) for name, samples in found.items()}


def cpu_seconds(action: Callable[[], Any]) -> float:
    """Return the CPU time of this process for the action; other processes hardly change it."""
    started = time.process_time()
    action()
    return time.process_time() - started


def peak_growth(prepare: Callable[[], Any], action: Callable[[Any], Any]) -> float:
    """Return how far the memory of a process grows above what it had before an action, in MB.

    Args:
      prepare: Makes what the action takes; its memory does not count.
      action: What is measured, in a forked child.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_growth, args=(sender, prepare, action))
    process.start()
    sender.close()
    grown: float = receiver.recv()
    process.join()
    return grown


def _report_growth(sender: Connection, prepare: Callable[[], Any], action: Callable[[Any], Any]) -> None:
    prepared = prepare()
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed before would be taken without a growth
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
    before = _status("self", "VmRSS")
    kept = action(prepared)
    sender.send(max(_status("self", "VmHWM") - before, 0) / _MB)
    del kept
    os._exit(0)


def _status(process: int | str, field: str) -> int:
    """Return a field of a process's status, in bytes; 0 when it has gone."""
    try:
        text = pathlib.Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@dataclasses.dataclass(frozen=True)
class Ended:
    """A command that ran: wall and CPU seconds, and the peak of the memory that it and its children had together."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end, looking at the memory of all its processes twenty times a second.

    Raises:
      subprocess.CalledProcessError: If it fails; with what it said.
    """
    before, started = os.times(), time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
    )
    peak = 0
    while True:
        try:
            said, _ = process.communicate(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, sum(_status(each, "VmRSS") for each in _tree(process.pid)))
    seconds, after = time.monotonic() - started, os.times()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Ended(seconds, cpu, peak / _MB)


def _tree(process: int) -> list[int]:
    found = [process]
    for each in found:
        for file in pathlib.Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found += map(int, file.read_text(encoding="ascii").split())
    return found


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, so that its memory is given back and nothing is warm."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def circumstances() -> dict[str, str]:
    """Return the date, the versions and the machine, without its name: what it is, and how busy it is."""
    versions = {"tf_bnfold": tf_bnfold.__version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory()} GB, {platform.system()}, load average "
        f"{os.getloadavg()[1]:.1f}",
    }


def _processor() -> str:
    file = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
