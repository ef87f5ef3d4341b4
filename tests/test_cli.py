"""The command: what it answers, and that nothing of it is left behind, however the run ends.

The work itself is replaced by a few lines here, which the child finds in place of the pipeline;
tests/test_end_to_end.py runs the real one.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tf_bnfold import cli, worker
from tf_bnfold.outputs import PREFIX
from tf_bnfold.version import __version__

SITECUSTOMIZE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tf_bnfold.pipeline", {path!r})
if "-c" in sys.argv:  # the child; the parent must not need it
    module = importlib.util.module_from_spec(spec)
    sys.modules["tf_bnfold.pipeline"] = module
    spec.loader.exec_module(module)
"""

PIPELINE = """
import os, signal, time
from pathlib import Path
from tf_bnfold.errors import ConverterError, InputError, UnfoldedError
from tf_bnfold.outputs import Staging
from tf_bnfold.report import Report, Result, Run, Size

REPORT = Report(Result((), Size({{"Conv2D": 1}}, 1), Size({{"Conv2D": 1}}, 1)), Run(outputs={{"tflite": "out.tflite"}}))

def place(request, clock):
    with Staging() as staging:
        staging.stage(request.tflite).write_bytes(b"new")
        with clock.step("place"):
            staging.place()
    return REPORT

def run(request, clock, on_report):
{body}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an input "model" and an old output "out.tflite"."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"x")
    (tmp_path / "out.tflite").write_bytes(b"old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pipeline(folder, tmp_path_factory, monkeypatch):
    """A function that makes its text the body of the child's `pipeline.run(request, clock)`."""
    site = tmp_path_factory.mktemp(f"site-{folder.name}")

    def plant(body: str) -> None:
        path = site / "fake_pipeline.py"
        path.write_text(PIPELINE.format(body=textwrap.indent(textwrap.dedent(body), "    ")))
        (site / "sitecustomize.py").write_text(SITECUSTOMIZE.format(path=str(path)))
        root = Path(cli.__file__).parents[1]
        monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{root}")

    return plant


def run(*args: str) -> int:
    return cli.main(["tf_bnfold", *args])


def convert(*args: str) -> int:
    return run("--saved_model=model", "--tflite=out.tflite", *args)


def left_behind(folder: Path) -> list[Path]:
    return list(folder.glob(f"{PREFIX}*"))


def test_help_and_version_answer_on_stdout(capsys):
    assert run("--help") == 0
    assert "Usage: tf_bnfold" in capsys.readouterr().out
    assert run("-h") == 0
    assert run("--version") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"tf_bnfold {__version__}"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--nonsense"], 1),
        (["model", "out.tflite"], 1),
        ([], 1),
        (["--saved_model=model"], 1),
        (["--saved_model=model", "--tflite=model/saved_model.pb"], 1),
        (["--saved_model=nope", "--tflite=out.tflite"], 2),
        (["--saved_model=model", "--tflite=nope/out.tflite"], 6),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_the_parent_sees_is_answered_without_a_child(args, code, capsys, monkeypatch):
    monkeypatch.setattr(cli.runner, "run", None)
    assert run(*args) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tf_bnfold: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("args", [["--help"], ["--nonsense"], ["--saved_model=nope", "--dry_run"]])
def test_the_parent_answers_at_once(args):
    call = f"main(['tf_bnfold', *{args!r}])"
    code = f"import sys; from tf_bnfold.cli import main; {call}; sys.exit('tensorflow' in sys.modules)"
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert time.monotonic() - started < 2  # importing TensorFlow alone takes longer


def test_python_m_is_the_command():
    command = [sys.executable, "-m", "tf_bnfold", "--saved_model=/nope", "--dry_run"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_a_run_prints_its_report_and_leaves_nothing_but_its_output(folder, pipeline, capfd):
    pipeline("print('chatter'); os.system('echo more chatter >&2'); on_report(place(request, clock))")
    assert convert() == 0
    out, err = capfd.readouterr()
    assert out.startswith("No batch norm found.\n")
    assert "Wrote out.tflite" in out
    assert err == ""
    assert (folder / "out.tflite").read_bytes() == b"new"
    assert sorted(path.name for path in folder.iterdir()) == ["model", "out.tflite"]


def test_a_terminal_sees_the_step_and_colours_and_the_step_goes_away(folder, pipeline):
    pipeline("with clock.step('convert'): on_report(place(request, clock))")
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "tf_bnfold", "--saved_model=model", "--tflite=out.tflite"]
    with subprocess.Popen(command, stdout=end, stderr=end, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while chunk := os.read(terminal, 4096):
                shown += chunk
    os.close(terminal)
    assert process.returncode == 0
    before, after = shown.decode().split("tf_bnfold: writing ...\r\033[K")
    assert "tf_bnfold: converting to TFLite ..." in before
    assert after.startswith("\033[1;33mNo batch norm found.\033[0m")
    assert (folder / "out.tflite").read_bytes() == b"new"


def on_terminal(*args: str) -> str:
    """Run the command on a terminal; return what that has seen."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "tf_bnfold", "--saved_model=model", "--tflite=out.tflite", *args]
    with subprocess.Popen(command, stdout=end, stderr=end, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while chunk := os.read(terminal, 4096):
                shown += chunk
    os.close(terminal)
    assert process.returncode == 0
    return shown.decode()


CALIBRATING = """
with clock.step('convert'):
    for number in range(1, 6):
        clock.progress(number, 5)
    clock.progress(7, None)
on_report(place(request, clock))
"""


def test_a_terminal_sees_how_far_calibration_is(pipeline):
    pipeline(CALIBRATING)
    shown = on_terminal()
    assert f"\r\033[Ktf_bnfold: calibrating [{'=' * 6}{' ' * 24}] 1/5" in shown
    assert f"\r\033[Ktf_bnfold: calibrating [{'=' * 30}] 5/5" in shown
    assert "calibrating" not in shown.split("No batch norm found.")[1]
    assert "calibrating" not in on_terminal("--verbosity=-1")


def test_progress_is_for_terminals(pipeline, capfd):
    pipeline(CALIBRATING)
    assert convert() == 0
    assert capfd.readouterr().err == ""


def test_a_bar_needs_an_end():
    assert cli._bar(worker.Progress(7, None)) == "calibrating: 7 inputs"
    assert cli._bar(worker.Progress(1, 2)) == f"calibrating [{'=' * 15}{' ' * 15}] 1/2"


def test_progress_is_told_seldom_but_its_end_always(monkeypatch):
    told, now = [], [0.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    tell = worker._Seldom(lambda done, of: told.append(done))
    for done in range(1, 101):
        now[0] += 0.01
        tell(done, 100)
    assert told[0] == 1
    assert told[-1] == 100
    assert len(told) == 11


def test_verbosity_minus_one_is_silent(pipeline, capfd):
    pipeline("on_report(place(request, clock))")
    assert convert("--verbosity=-1") == 0
    assert capfd.readouterr() == ("", "")


def test_the_child_gets_the_request(pipeline):
    pipeline(
        """
        assert request.options.input_shapes == {{"x": (1, 2)}}, request
        assert request.command == ("tf_bnfold", "--saved_model=model", "--tflite=out.tflite", "--input_shapes=x:1,2")
        on_report(REPORT)
        """.replace("{{", "{").replace("}}", "}")
    )
    assert convert("--input_shapes=x:1,2") == 0


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("raise InputError('line one\\nline two')", 2, "error: line one line two\n"),
        ("raise ConverterError('op Foo')", 5, "error: op Foo\n"),
        ("raise KeyError('x')", 70, "error: internal error, please report it: KeyError: 'x'\n"),
        ("raise MemoryError", 70, "error: out of memory\n"),
        ("os._exit(3)", 70, "error: TensorFlow ended with code 3 in step 'start'"),
        ("with clock.step('fold'): os.abort()", 70, "error: TensorFlow crashed with SIGABRT in step 'fold'"),
        ("with clock.step('convert'): os.abort()", 5, "error: the TFLite converter crashed with SIGABRT"),
        ("with clock.step('convert'): os.kill(os.getpid(), signal.SIGKILL)", 70, "memory was used up"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code_and_changes_nothing(folder, pipeline, capfd, body, code, words):
    pipeline(f"Staging().stage(request.tflite).write_bytes(b'half')\nprint('chatter', flush=True)\n{body}")
    assert convert() == code
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert (folder / "out.tflite").read_bytes() == b"old"
    assert left_behind(folder) == []


def test_verbosity_one_adds_the_traceback_and_what_the_child_said(pipeline, capfd):
    pipeline("print('chatter', flush=True)\nraise InputError('bad')")
    assert convert("--verbosity=1") == 2
    err = capfd.readouterr().err
    assert err.startswith("chatter\n")
    assert "Traceback (most recent call last):" in err
    assert err.endswith("\ntf_bnfold: error: bad\n")


@pytest.mark.parametrize(
    ("end", "code"), [("raise UnfoldedError('bn stayed')", 4), ("with clock.step('convert'): os.abort()", 5)]
)
def test_a_failure_prints_what_was_found_until_then(pipeline, capfd, end, code):
    pipeline(f"on_report(REPORT)\n{end}")
    assert convert() == code
    out, err = capfd.readouterr()
    assert out.startswith("No batch norm found.\n")
    assert err.count("\n") == 1


def test_a_crash_after_the_report_does_not_matter(pipeline):
    pipeline("os._exit = lambda code: os.abort()\non_report(place(request, clock))")
    assert convert() == 0


def start(*args: str, **streams: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tf_bnfold", "--saved_model=model", "--tflite=out.tflite", *args]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **streams)


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


# It says where it is, and goes on to place its output as soon as it may.
HALF_WAY = """
staging = Staging()
staging.stage(request.tflite).write_bytes(b"half")
Path("pid").write_text(str(os.getpid()))
while not Path("go").exists():
    time.sleep(0.02)
with clock.step("place"):
    staging.place()
on_report(REPORT)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_child_and_leaves_nothing(folder, pipeline, number):
    pipeline(HALF_WAY)
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        process = start()
    finally:
        signal.signal(number, before)
    with process, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(process.kill)  # else a failure would wait for it
        wait_for((folder / "pid").exists, "the child has not started")
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert process.stderr.read().startswith("tf_bnfold: error: ")
    assert not alive(int((folder / "pid").read_text()))
    assert (folder / "out.tflite").read_bytes() == b"old"
    assert left_behind(folder) == []


def test_under_nohup_it_goes_on(folder, pipeline):
    pipeline(HALF_WAY)
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child inherits that
    try:
        process = start()
    finally:
        signal.signal(signal.SIGHUP, ignored)
    with process:
        wait_for((folder / "pid").exists, "the child has not started")
        process.send_signal(signal.SIGHUP)
        (folder / "go").touch()
        assert process.wait(20) == 0
    assert (folder / "out.tflite").read_bytes() == b"half"


def test_a_killed_command_takes_its_child_along_and_the_next_one_cleans_up(folder, pipeline):
    pipeline(HALF_WAY)
    with start() as process:
        wait_for((folder / "pid").exists, "the child has not started")
        process.kill()
    child = int((folder / "pid").read_text())
    wait_for(lambda: not alive(child), "the child goes on")
    (folder / "go").touch()
    assert (folder / "out.tflite").read_bytes() == b"old"
    assert len(left_behind(folder)) == 1
    assert convert() == 0
    assert (folder / "out.tflite").read_bytes() == b"half"
    assert left_behind(folder) == []


def test_a_child_whose_parent_is_gone_places_nothing(folder, pipeline):
    # As on a system that does not kill the child: it finds out before it places.
    pipeline(f"os.getppid = lambda: 1\n{HALF_WAY}")
    (folder / "go").touch()
    assert convert() == 70
    assert (folder / "out.tflite").read_bytes() == b"old"


def test_a_reader_that_leaves_is_no_error(folder, pipeline):
    pipeline("on_report(place(request, clock))")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tf_bnfold", "--saved_model=model", "--tflite=out.tflite"]
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True) as process:
        os.close(write)
        assert process.stderr.read() == ""
        assert process.wait(20) == 0
    assert (folder / "out.tflite").read_bytes() == b"new"


def test_modules_in_the_working_folder_do_not_get_in_the_way(folder, pipeline):
    pipeline("import types, json\non_report(place(request, clock))")
    for name in ("types", "json", "numpy", "tensorflow"):
        (folder / f"{name}.py").write_text("raise SystemExit('shadowed')")
    code = (
        "import sys; sys.path.remove(''); from tf_bnfold.cli import main; sys.exit(main())"  # as a console script does
    )
    command = [sys.executable, "-c", code, "--saved_model=model", "--tflite=out.tflite"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
