"""The Bazel macro, with a tool that only writes down how it was called; `make bazel-test` converts a real model.

All is offline and in an output base of its own. Debian's Bazel has what it needs: `make android-packages`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tf_bnfold.version import __version__

ROOT = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/bazel/tools/skylib")
BAZEL = shutil.which("bazel")
pytestmark = pytest.mark.skipif(not (BAZEL and DEBIAN.exists()), reason="needs Debian's Bazel: make android-packages")

TOOL = """
import json, os, sys
from pathlib import Path

*_, = arguments = sys.argv[1:]
for argument in arguments:
    if argument.startswith("--rtol="):
        sys.stderr.write("tf_bnfold: error: the message\\n")
        sys.exit(int(argument[7:]))
seen = sorted(str(path) for path in Path().rglob("*") if path.is_file() and "runfiles" not in str(path))
call = {"arguments": arguments, "environment": dict(os.environ), "seen": seen}
for flag in ("--tflite", "--report"):
    if flag in arguments:
        Path(arguments[arguments.index(flag) + 1]).write_text(json.dumps(call))
"""

FOLDER_RULE = """
def _impl(ctx):
    folder = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(outputs = [folder], command = "touch %s/saved_model.pb" % folder.path)
    return [DefaultInfo(files = depset([folder]))]

exported = rule(implementation = _impl)
"""

CODES = (1, 2, 3, 4, 5, 6, 70)

BUILD = """
load("@rules_python//python:defs.bzl", "py_binary")
load("@tf_bnfold//bazel:tflite.bzl", "tf_bnfold_tflite")
load(":folder.bzl", "exported")

py_binary(name = "tool", srcs = ["tool.py"])
filegroup(name = "files", srcs = glob(["model/**"]))
exported(name = "folder")

tf_bnfold_tflite(
    name = "assets/whole",
    saved_model = ":files",
    flagfiles = ["a.cfg", "b.cfg"],
    flags = ["--representative_data=$(location samples.npz)", "--verbosity=0"],
    data = ["samples.npz"],
    report = True,
    tool = ":tool",
)
tf_bnfold_tflite(name = "of_folder", saved_model = ":folder", tool = ":tool")
tf_bnfold_tflite(name = "of_keras", keras_model = "m.keras", tool = ":tool")
tf_bnfold_tflite(name = "of_graph", frozen_graph = "m.pb", tool = ":tool")
[tf_bnfold_tflite(name = "exit_%s" % code, frozen_graph = "m.pb", flags = ["--rtol=%s" % code], tool = ":tool")
 for code in CODES]

tf_bnfold_tflite(name = "none", tool = ":tool")
tf_bnfold_tflite(name = "two", keras_model = "m.keras", frozen_graph = "m.pb", tool = ":tool")
tf_bnfold_tflite(name = "no_model", saved_model = "m.pb", tool = ":tool")
filegroup(name = "scattered_files", srcs = [":files", "m.pb"])
tf_bnfold_tflite(name = "scattered", saved_model = ":scattered_files", tool = ":tool")
tf_bnfold_tflite(name = "own_flag", frozen_graph = "m.pb", flags = ["--onnx=m.onnx"], tool = ":tool")
"""

FILES = ("model/saved_model.pb", "model/variables/variables.index", "a.cfg", "b.cfg", "samples.npz", "m.keras", "m.pb")
EXTRA = "not_an_input.txt"


class Workspace:
    """A workspace of a user, and the server that builds in it."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self._startup = [BAZEL, f"--output_base={base}", "--max_idle_secs=60"]
        self._options = [f"--repo_env=TF_BNFOLD_PYTHON={sys.executable}", "--noshow_progress"]
        self._environment = {**os.environ, "HOME": str(base)}  # where a user's .bazelrc would be

    def run(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        options = [] if command == "shutdown" else self._options
        call = [*self._startup, command, *options, *args]
        return subprocess.run(call, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False)

    def call(self, output: str) -> dict:
        """Return how the tool was called that wrote this output."""
        return json.loads((self.folder / "bazel-bin" / output).read_text())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder, base = tmp_path_factory.mktemp("workspace"), tmp_path_factory.mktemp("base")
    text = (ROOT / "tests" / "bazel" / "WORKSPACE").read_text(encoding="utf-8")
    text = re.sub(r"new_local_repository\(.*?demo/out\",\n\)\n", "", text, flags=re.DOTALL)
    text = text.replace('"../.."', f'"{ROOT}"').replace('"stubs/', f'"{ROOT}/tests/bazel/stubs/')
    texts = {
        "WORKSPACE": text,
        "BUILD": BUILD.replace("CODES", str(list(CODES))),
        "tool.py": TOOL,
        "folder.bzl": FOLDER_RULE,
    }
    for name, content in {**dict.fromkeys((*FILES, EXTRA), "x"), **texts}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / ".bazelrc").write_text("build --experimental_repository_disable_download --nosandbox_debug\n")
    place = Workspace(folder, base)
    yield place
    place.run("shutdown")
    subprocess.run(["chmod", "-R", "u+w", str(base)], check=True)  # Bazel's outputs are read-only
    shutil.rmtree(base)


def bin_path(call: dict) -> str:
    """Return the folder of outputs, which has the name of the configuration in it."""
    return re.match(r".*/bin/", call["arguments"][call["arguments"].index("--tflite") + 1])[0]


def test_every_input_and_flag_arrives_in_order(workspace):
    done = workspace.run("build", "//:assets/whole", "//:of_folder", "//:of_keras", "//:of_graph")
    assert done.returncode == 0, done.stderr
    call = workspace.call("assets/whole.tflite")
    out = bin_path(call)
    assert call["arguments"] == [
        *("--flagfile", "a.cfg", "--flagfile", "b.cfg", "--verbosity=-1"),
        *("--representative_data=./samples.npz", "--verbosity=0", "--saved_model", "model"),
        *("--tflite", f"{out}assets/whole.tflite", "--report", f"{out}assets/whole.report.json"),
    ]
    assert workspace.call("assets/whole.report.json") == call
    for name, source in {
        "of_folder": ["--saved_model", f"{out}folder"],
        "of_keras": ["--keras_model", "m.keras"],
        "of_graph": ["--frozen_graph", "m.pb"],
    }.items():
        expected = ["--verbosity=-1", *source, "--tflite", f"{out}{name}.tflite"]
        assert workspace.call(f"{name}.tflite")["arguments"] == expected


def test_an_action_sees_its_inputs_and_nothing_of_who_runs_it(workspace):
    assert workspace.run("build", "//:assets/whole").returncode == 0
    call = workspace.call("assets/whole.tflite")
    assert set(FILES) - set(call["seen"]) == {"m.keras", "m.pb"}
    assert EXTRA not in call["seen"]
    known = {"PATH", "PYTHONPATH", "RUNFILES_DIR", "RUNFILES_MANIFEST_FILE", "TMPDIR", "PWD", "LC_CTYPE"}
    assert set(call["environment"]) <= known | {"SHLVL", "_"}
    assert call["environment"]["PATH"] == "/usr/local/bin:/usr/bin:/bin"


def test_what_was_converted_once_comes_from_the_cache(workspace, tmp_path):
    def build() -> str:
        assert workspace.run("clean").returncode == 0
        return workspace.run("build", f"--disk_cache={tmp_path / 'cache'}", "//:of_graph").stderr

    assert "cache hit" not in build()
    assert "1 remote cache hit" in build()
    (workspace.folder / "m.pb").write_text("changed")
    assert "cache hit" not in build()


def test_an_error_of_the_command_fails_the_build_with_its_message(workspace):
    targets = [f"//:exit_{code}" for code in CODES]
    done = workspace.run("build", "--keep_going", *targets)
    assert done.returncode == 1
    assert done.stderr.count("tf_bnfold: error: the message") == len(CODES)
    for code in CODES:
        assert re.search(rf"\(Exit {code}\): tool failed", done.stderr)
        assert not (workspace.folder / "bazel-bin" / f"exit_{code}.tflite").exists()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("none", "give one of saved_model, keras_model and frozen_graph, with files in it; none do"),
        ("two", 'with files in it; ["keras_model", "frozen_graph"] do'),
        ("no_model", "give the files of one SavedModel, with its saved_model.pb: there are 0 among 1 files"),
        ("scattered", "saved_model: m.pb is not in the folder of saved_model.pb, model"),
        ("own_flag", "flags: --onnx=m.onnx is given by the rule itself; drop it"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(workspace, target, words):
    done = workspace.run("build", "--nobuild", f"//:{target}")
    assert done.returncode == 1
    assert words in done.stderr


def test_the_default_tool_is_the_command(workspace):
    done = workspace.run("run", "@tf_bnfold//:tf_bnfold_cli", "--", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"tf_bnfold {__version__}"


def test_a_python_without_the_packages_is_named():
    bare = [sys.executable, "-S", str(ROOT / "bazel" / "main.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(bare, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tf_bnfold: error: {sys.executable}, Bazel's Python, has no absl, numpy, tensorflow")


def test_the_packages_of_the_interpreter_are_listed(workspace):
    assert workspace.run("build", "@tf_bnfold_python//:packages.txt").returncode == 0
    base = Path(workspace.run("info", "output_base").stdout.strip())
    packages = (base / "external" / "tf_bnfold_python" / "packages.txt").read_text().split()
    assert packages[0] == f"python=={'.'.join(map(str, sys.version_info[:3]))}"
    assert any(package.startswith("tensorflow==") for package in packages)


@pytest.mark.parametrize(
    ("interpreter", "words"),
    [
        ("python3", "give an absolute path, here or with --repo_env=TF_BNFOLD_PYTHON=..."),
        ("/no/python3", "/no/python3 can not be run"),
        ("/usr/bin/python3", "/usr/bin/python3 has no TensorFlow: run `/usr/bin/python3 -m pip install`"),
    ],
)
def test_an_interpreter_that_will_not_do_is_named(workspace, interpreter, words):
    if interpreter == sys.executable:
        pytest.skip("it has TensorFlow")
    done = workspace.run("build", f"--repo_env=TF_BNFOLD_PYTHON={interpreter}", "@tf_bnfold_python//:packages.txt")
    assert done.returncode == 1
    assert words in done.stderr
