"""Damage valid models at random, and see that the command always ends with one line and leaves nothing behind.

    python tests/fuzz_models.py --seconds 600 [--first SEED]

Each seed is one model, always the same. Many run in one process; when that process crashes or hangs, the command itself
is run on the model, for it must turn a crash of TensorFlow into an error.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HANGS = 60  # seconds
GROWS = 2000  # MB
ALLOWED = (0, 1, 2, 3, 5)
PREFIX = "fuzz: "  # of the lines that a worker writes


@dataclasses.dataclass(frozen=True)
class Finding:
    """A model on which the command does not do as it should."""

    seed: int
    what: str


# Models, mutated.

_INTERESTING = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**40, 2**63 - 1)
_NUMBERS = (float("nan"), float("inf"), -1.0, 0.0, 1e-45, 1e38)


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message and all in it."""
    pending = [message]
    while pending:
        current = pending.pop()
        yield current
        for field, value in current.ListFields():
            if field.type != field.TYPE_MESSAGE:
                continue
            if field.message_type.GetOptions().map_entry:
                if field.message_type.fields_by_name["value"].type == field.TYPE_MESSAGE:
                    pending += [value[key] for key in sorted(value)]
            else:
                pending += list(value) if field.is_repeated else [value]


def _scalar(field: Any, value: Any, texts: Sequence[str], rng: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice([*texts, "", "a" * 1000, f"{value}:1", f"^{value}", "\x1b[31m\n", value[::-1]])
    if field.type == field.TYPE_BYTES:
        return rng.choice([b"", value[:-1], value + b"\0", value * 2, bytes(len(value)), b"\xff" * len(value), b"SAME"])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(_NUMBERS)
    if field.type == field.TYPE_BOOL:
        return not value
    return rng.choice([*_INTERESTING, *range(1, 24)])


def _mutate_field(messages: Sequence[Any], texts: Sequence[str], rng: random.Random) -> None:
    message = rng.choice(messages)
    fields = message.ListFields()
    if not fields:
        return
    field, value = rng.choice(fields)
    is_map = field.type == field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry
    if is_map:
        _mutate_map(value, rng)
    elif field.is_repeated:
        _mutate_list(field, value, texts, rng)
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.type == field.TYPE_MESSAGE:
        others = [each for each in messages if each.DESCRIPTOR is value.DESCRIPTOR]
        value.CopyFrom(rng.choice(others))
    else:
        setattr(message, field.name, _scalar(field, value, texts, rng))


def _mutate_map(value: Any, rng: random.Random) -> None:
    key, other = rng.choice(sorted(value)), rng.choice(sorted(value))
    if hasattr(value[key], "CopyFrom") and rng.random() < 0.6:
        value[key].CopyFrom(value[other])
    else:
        del value[key]


def _mutate_list(field: Any, value: Any, texts: Sequence[str], rng: random.Random) -> None:
    index = rng.randrange(len(value))
    what = rng.choice(("delete", "double", "move", "change"))
    items = list(value)
    if what == "delete":
        del value[index]
    elif what == "double":
        value.append(items[index])
    elif what == "move":
        items[index], items[0] = items[0], items[index]
        copies = [type(item).FromString(item.SerializeToString()) for item in items] if _is_message(items[0]) else items
        del value[:]
        value.extend(copies)
    elif not _is_message(items[index]):
        value[index] = _scalar(field, items[index], texts, rng)


def _is_message(item: Any) -> bool:
    return hasattr(item, "SerializeToString")


def _mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(max(len(data), 1))
        size = rng.choice((1, 2, 8, 50))
        what = rng.choice(("flip", "cut", "delete", "double", "fill"))
        if what == "flip" and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == "cut":
            del data[at:]
        elif what == "delete":
            del data[at : at + size]
        elif what == "double":
            data[at:at] = data[at : at + size]
        else:
            data[at : at + size] = bytes([rng.choice((0, 0x7F, 0xFF))]) * size
    return bytes(data)


def mutated(content: bytes, kind: Any, rng: random.Random) -> bytes:
    """Change a file that holds a protocol buffer of this kind, by bytes or by fields."""
    if rng.random() < 0.25:
        return _mutate_bytes(content, rng)
    message = kind.FromString(content)
    names = sorted(
        {node.name for each in _messages(message) if each.DESCRIPTOR.name == "GraphDef" for node in each.node}
    )
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        messages = [each for each in _messages(message) if "Trackable" not in each.DESCRIPTOR.full_name]
        with contextlib.suppress(ValueError, TypeError):  # a number that the field does not take
            _mutate_field(messages, names, rng)
    return bytes(message.SerializeToString(deterministic=True))


def damage(folder: Path, seed: int) -> list[str]:
    """Damage one of the models in a folder of models, and return the flags that name it."""
    from tensorflow.core.framework import graph_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    rng = random.Random(seed)
    model = rng.choice(sorted(folder.iterdir()))
    if model.suffix == ".pb":
        model.write_bytes(mutated(model.read_bytes(), graph_pb2.GraphDef, rng))
        return [f"--frozen_graph={model}"]
    files = sorted(path for path in model.rglob("*") if path.is_file() and path.name != "fingerprint.pb")
    file = model / "saved_model.pb" if rng.random() < 0.9 else rng.choice(files)
    kind = saved_model_pb2.SavedModel
    content = file.read_bytes()
    file.write_bytes(mutated(content, kind, rng) if file.suffix == ".pb" else _mutate_bytes(content, rng))
    return [f"--saved_model={model}"]


def save_models(folder: Path) -> None:
    """Write the valid models: flat, with functions, with control flow, with a table, frozen."""
    import bad_models
    import saved_models
    import tensorflow as tf

    folder.mkdir()
    bad_models.save_model(folder / "flat")
    (folder / "frozen.pb").write_bytes(bad_models.frozen_model().SerializeToString())
    saved_models.two_signatures(str(folder / "functions"))
    saved_models.lookup(str(folder / "table"), str(folder.parent / "vocabulary.txt"))
    weights = tf.Variable(bad_models.WEIGHTS)

    def looping(image):
        def body(step, value):
            return step + 1, tf.cond(step > 1, lambda: value * [2.0, 1.0, 0.5, 1.0], lambda: value + 1.0)

        start = (tf.constant(0), tf.nn.conv2d(image, weights, 1, "SAME") * [1.0, 2.0, 3.0, 4.0])
        return {"logits": tf.while_loop(lambda step, _: step < 3, body, start)[1]}

    saved_models.saved(str(folder / "loop"), looping, tf.TensorSpec([None, 4, 4, 3], name="image"), variables=[weights])


# The worker: many models in one process.


def work(models: Path, first: int) -> None:
    """Run seeds from the first on, and write a line before and after each."""
    import in_process

    from tf_bnfold import cli
    from tf_bnfold.formats import session

    session.SECONDS_TO_RUN = HANGS // 6
    cli.runner.run = in_process.run
    seed = first
    while True:
        tell(seed=seed)
        tell(seed=seed, what=judged(models, seed, cli.main))
        seed += 1


def tell(**values: Any) -> None:
    """Write a line to the supervisor."""
    sys.__stdout__.write(f"{PREFIX}{json.dumps(values)}\n")
    sys.__stdout__.flush()


def judged(models: Path, seed: int, command: Callable[[list[str]], int]) -> str:
    """Run a command on the model of a seed, and return what is wrong with what it does, "" if nothing is."""
    import io

    with tempfile.TemporaryDirectory() as place:
        flags = prepare(models, Path(place), seed)
        before = snapshot(Path(place))
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = command(["tf_bnfold", *flags])
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - used
        if grown > GROWS:
            return f"it took {grown} MB: {errors.getvalue()}"
        return problem(code, errors.getvalue(), before, snapshot(Path(place)))


def prepare(models: Path, place: Path, seed: int) -> list[str]:
    """Put the damaged model of a seed into a folder, and return a command line."""
    shutil.copytree(models, place / "models")
    flags = damage(place / "models", seed)
    output = random.Random(seed).choice(
        ("--dry_run", f"--tflite={place}/out.tflite", f"--output_saved_model={place}/out")
    )
    return [*flags, output]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the contents of a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def problem(code: int, errors: str, before: dict[str, bytes | None], after: dict[str, bytes | None]) -> str:
    """Tell what is wrong with an end, "" if nothing is."""
    if code not in ALLOWED:
        return f"exit code {code}: {errors}"
    if code and not (errors.startswith("tf_bnfold: error: ") and errors.count("\n") == 1 and errors[:-1].isprintable()):
        return f"not one line: {errors!r}"
    if code and before != after:
        return f"files changed: {sorted(before.keys() ^ after.keys())}"
    return ""


# The supervisor.


class _Worker:
    def __init__(self, models: Path, first: int) -> None:
        command = [sys.executable, __file__, "--models", str(models), "--first", str(first)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def next(self) -> dict[str, Any] | None:
        """Return what the worker tells next, None when it has ended or hangs."""
        while True:
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=HANGS)
                if line.startswith(PREFIX):
                    return dict(json.loads(line.removeprefix(PREFIX)))
                if line:
                    continue
            return None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def fuzz(seconds: float, first: int = 0, tell: Callable[[str], None] = lambda line: None) -> tuple[int, list[Finding]]:
    """Run seeds for so many seconds; return how many there were, and what was found."""
    end = time.monotonic() + seconds
    findings, seed = [], first
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        subprocess.run([sys.executable, __file__, "--save", str(models)], check=True, capture_output=True)
        worker = _Worker(models, seed)
        while time.monotonic() < end:
            told = worker.next()
            if told is None:
                worker.end()
                what = _by_command(models, seed)
                tell(f"seed {seed} ended the process; the command: {what or 'an error, as it should'}")
                worker = _Worker(models, seed + 1)
                seed += 1
            elif "what" in told:
                seed, what = told["seed"] + 1, told["what"]
            else:
                seed, what = told["seed"], ""
            if what:
                findings.append(Finding(seed - 1, what))
                tell(f"seed {seed - 1}: {what}")
        worker.end()
    return seed - first, findings


def _by_command(models: Path, seed: int) -> str:
    """Run the command itself on a model that has ended the worker."""
    with tempfile.TemporaryDirectory() as place:
        code = (
            "import sys; from pathlib import Path; import fuzz_models; "
            "print(*fuzz_models.prepare(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])), sep='\\n')"
        )
        paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", code, str(models), place, str(seed)]
        flags = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split("\n")
        before = snapshot(Path(place))
        command = [sys.executable, "-m", "tf_bnfold", *flags[:-1]]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=3 * HANGS, check=False
            )
        except subprocess.TimeoutExpired:
            return "it hangs"
        crashed = done.returncode == 70 and ("crashed with" in done.stderr or "most likely because" in done.stderr)
        return problem(2 if crashed else done.returncode, done.stderr, before, snapshot(Path(place)))


def main() -> int:
    """Fuzz, or be a worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    if arguments.save:
        save_models(arguments.save)
    elif arguments.models:
        work(arguments.models, arguments.first)
    else:
        count, findings = fuzz(arguments.seconds, arguments.first, lambda line: print(line, flush=True))  # noqa: T201
        print(f"{count} models, {len(findings)} findings")  # noqa: T201
        return bool(findings)
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    sys.exit(main())
