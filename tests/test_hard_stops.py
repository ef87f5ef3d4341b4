"""The real command, stopped at any moment, or started twice at once: the target is the old file or a new one, whole."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import bad_models
import pytest

from tf_bnfold.outputs import PREFIX

OLD = b"old"


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tf_bnfold", *args]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def is_alive(parent: int) -> bool:
    """Whether the child of a process runs: the parent's id is in its command line."""
    mark = f", {parent})".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"tf_bnfold.worker" in line and mark in line:
            return True
    return False


def wait_until_dead(parent: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(parent):
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[str, bytes]:
    """Two frozen graphs."""
    graph_def = bad_models.frozen_model()
    one = graph_def.SerializeToString()
    bad_models.node(graph_def, "weights").attr["value"].tensor.tensor_content = (bad_models.WEIGHTS + 1).tobytes()
    return {"one": one, "other": graph_def.SerializeToString()}


@pytest.fixture(scope="module")
def whole(graphs, tmp_path_factory) -> dict[str, tuple[bytes, float]]:
    """The .tflite of each graph, and how long it took."""
    found = {}
    for name, content in graphs.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "graph.pb").write_bytes(content)
        started = time.monotonic()
        with start(f"--frozen_graph={folder / 'graph.pb'}", f"--tflite={folder / 'out.tflite'}") as process:
            assert process.wait(120) == 0
        found[name] = (folder / "out.tflite").read_bytes(), time.monotonic() - started
    return found


def stop(graphs, whole, folder: Path, number: signal.Signals, share: float) -> None:
    """Stop a run after this share of its time."""
    (folder / "graph.pb").write_bytes(graphs["one"])
    target = folder / "out.tflite"
    target.write_bytes(OLD)
    content, seconds = whole["one"]
    with start(f"--frozen_graph={folder / 'graph.pb'}", f"--tflite={target}") as process:
        time.sleep(share * seconds)
        process.send_signal(number)
        code = process.wait(20)
        said = process.stderr.read()
    wait_until_dead(process.pid)
    assert target.read_bytes() in (OLD, content)
    assert (folder / "graph.pb").read_bytes() == graphs["one"]
    if number == signal.SIGKILL:
        assert len(list(folder.glob(f"{PREFIX}*"))) <= 1
    elif code != -number:  # Python itself had started, so that the command could clean up
        assert code in (0, 128 + number)
        assert "Traceback" not in said
        assert list(folder.glob(f"{PREFIX}*")) == []


SIGNALS = [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_run_that_is_stopped_leaves_the_old_file_or_a_whole_one(graphs, whole, tmp_path, number, share):
    stop(graphs, whole, tmp_path, number, share)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_stopped_at_any_moment(graphs, whole, tmp_path, number):
    moments = random.Random(0)
    for count in range(25):
        folder = tmp_path / str(count)
        folder.mkdir()
        stop(graphs, whole, folder, number, moments.uniform(0, 1.05))


def test_two_runs_at_once_to_one_target(graphs, whole, tmp_path):
    target = tmp_path / "out.tflite"
    target.write_bytes(OLD)
    processes = []
    for name, content in graphs.items():
        (tmp_path / f"{name}.pb").write_bytes(content)
        processes.append(start(f"--frozen_graph={tmp_path / f'{name}.pb'}", f"--tflite={target}"))
    seen = set()
    while any(process.poll() is None for process in processes):
        seen.add(target.read_bytes())
        time.sleep(0.001)
    assert [process.wait() for process in processes] == [0, 0]
    for process in processes:
        process.stderr.close()
    contents = {content for content, _ in whole.values()}
    assert len(contents) == 2
    assert seen <= {OLD, *contents}
    assert target.read_bytes() in contents
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def without_network() -> None:
    """Leave this process no network, not even a loopback; who is not root does so as root of a space of their own."""
    new_network, new_user = 0x40000000, 0x10000000  # CLONE_NEWNET, CLONE_NEWUSER
    flags = new_network if os.geteuid() == 0 else new_network | new_user
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def test_temporary_files_are_private_and_removed_and_no_network_is_needed(graphs, tmp_path):
    (tmp_path / "graph.pb").write_bytes(graphs["one"])
    scratch, home = tmp_path / "tmp", tmp_path / "home"
    scratch.mkdir()
    home.mkdir()
    command = [sys.executable, "-m", "tf_bnfold", f"--frozen_graph={tmp_path / 'graph.pb'}"]
    # onnxruntime sends nothing home when it sees that it runs in CI.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    modes = set()
    with subprocess.Popen(
        [*command, f"--tflite={tmp_path / 'out.tflite'}", f"--onnx={tmp_path / 'out.onnx'}"],
        stdout=subprocess.DEVNULL,
        env={**environment, "TMPDIR": str(scratch), "HOME": str(home)},
        preexec_fn=without_network,
    ) as process:
        while process.poll() is None:
            for path in (*scratch.iterdir(), *tmp_path.glob(f"{PREFIX}*")):
                with contextlib.suppress(FileNotFoundError):
                    modes.add((path.is_dir(), oct(path.stat().st_mode & 0o777)))
            time.sleep(0.005)
    assert process.returncode == 0
    assert modes == {(True, oct(0o700))}
    assert list(scratch.iterdir()) == []
    assert list(home.iterdir()) == []  # no settings of Keras, no telemetry of onnxruntime
    assert {path.name for path in tmp_path.iterdir()} == {"graph.pb", "home", "out.onnx", "out.tflite", "tmp"}
