"""The Gradle tasks, with a command that only writes down how it was called; docs/android.md is run with the real one.

Debian's Gradle is a 4.4 and needs no network: `make android-packages`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "android" / "tf_bnfold.gradle"
GRADLE = shutil.which("gradle")
pytestmark = pytest.mark.skipif(not GRADLE, reason="needs Debian's Gradle: make android-packages")

COMMAND = """#!/bin/sh
[ "$1" = --version ] && { cat version; exit; }
for argument; do
  case $argument in
    */exit_*) echo 'tf_bnfold: error: the message' >&2; exit ${argument##*/exit_};;
    --tflite=*) echo "$@" > "${argument#--tflite=}";;
  esac
done
"""

CODES = {
    1: "the flags are wrong",
    2: "the input can't be used",
    3: "the result differs from the original, or could not be compared with it",
    4: "a batch norm stayed, and --fail_if_unfolded was given",
    5: "the converter refused the model",
    6: "an output can't be written",
    70: "an error of tf_bnfold itself",
    99: "it ended unexpectedly",
}


class Project:
    """A project whose task preBuild is the one that the Android plugin would bring."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self._environment = {**os.environ, "GRADLE_USER_HOME": str(home)}
        self.write("settings.gradle", "")
        self.write("fake_command", COMMAND)
        (folder / "fake_command").chmod(0o755)
        self.write("version", "tf_bnfold 1.0")
        self.settings("")

    def settings(self, more: str, command: str = "'./fake_command'") -> None:
        self.write(
            "build.gradle", f"apply from: '{SCRIPT}'\ntfBnfold {{\ncommand = [{command}]\n{more}\n}}\ntask preBuild\n"
        )

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        call = [GRADLE, "--offline", "--console=plain", "-Dorg.gradle.daemon.idletimeout=60000", *args]
        return subprocess.run(call, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False)

    def ran(self, *args: str) -> set[str]:
        """Build, and return which models were converted."""
        done = self.run(*args, "preBuild")
        assert done.returncode == 0, done.stderr
        tasks = dict(re.findall(r"^(?:> Task )?:tfBnfold(\w+)( UP-TO-DATE)?$", done.stdout, re.MULTILINE))
        assert set(tasks) == {"CatsV2", "Dogs", "Graph", "Keras"}
        return {name for name, state in tasks.items() if not state}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("gradle")
    yield home
    subprocess.run([GRADLE, "--stop"], env={**os.environ, "GRADLE_USER_HOME": str(home)}, check=True)


@pytest.fixture
def project(tmp_path, home):
    return Project(tmp_path, home)


def test_models_become_assets_before_the_build_and_only_when_something_changed(project):
    for name in ("cats-v2/saved_model.pb", "dogs/variables/variables.index", "keras.keras", "graph.pbtxt"):
        project.write(f"src/main/models/{name}", "x")
    project.write("src/main/models/dogs.cfg", "--keep=x")
    project.write("samples.npz", "x")
    project.settings("flags = ['--quantize=float16']\ndata = files('samples.npz')")
    everything = {"CatsV2", "Dogs", "Graph", "Keras"}
    assert project.ran() == everything

    models, assets = (project.folder / "src" / "main" / name for name in ("models", "assets"))
    assert {path.name: path.read_text().split() for path in assets.iterdir()} == {
        f"{name}.tflite": ["--quantize=float16", *flags, f"--tflite={assets / name}.tflite"]
        for name, flags in {
            "cats-v2": [f"--saved_model={models / 'cats-v2'}"],
            "dogs": [f"--flagfile={models / 'dogs.cfg'}", f"--saved_model={models / 'dogs'}"],
            "graph": [f"--frozen_graph={models / 'graph.pbtxt'}"],
            "keras": [f"--keras_model={models / 'keras.keras'}"],
        }.items()
    }
    assert project.ran() == set()
    project.write("src/main/models/cats-v2/saved_model.pb", "y")
    project.write("src/main/models/dogs.cfg", "--keep=y")
    (assets / "keras.tflite").unlink()
    assert project.ran() == {"CatsV2", "Dogs", "Keras"}
    project.write("samples.npz", "y")
    assert project.ran() == everything
    project.write("version", "tf_bnfold 2.0")
    assert project.ran() == everything
    project.settings("flags = ['--quantize=dynamic']\ndata = files('samples.npz')")
    assert project.ran() == everything


def test_an_error_of_the_command_fails_the_build_and_says_what_it_means(project):
    for code in CODES:
        project.write(f"src/main/models/exit_{code}/saved_model.pb", "x")
    done = project.run("--continue", "preBuild")
    assert done.returncode == 1
    assert "Build completed with 8 failures" in done.stderr
    for code, meaning in CODES.items():
        message = (
            rf"> tf_bnfold: exit_{code}: {re.escape(meaning)} \(exit code {code}\)\s+tf_bnfold: error: the message"
        )
        assert re.search(message, done.stderr), code
    assert not list(project.folder.glob("src/main/assets/*.tflite"))


@pytest.mark.parametrize(
    ("models", "command", "words"),
    [
        (["a.keras"], "'/no/tf_bnfold'", "tf_bnfold: /no/tf_bnfold can not be run"),
        (["notes.txt"], "'./fake_command'", "notes.txt: not a SavedModel folder, a .keras, .h5 or .hdf5 file"),
        (["a_b.h5", "a-b.pb"], "'./fake_command'", "would have one task, tfBnfoldAB; give them names that differ"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(project, models, command, words):
    for name in models:
        project.write(f"src/main/models/{name}", "x")
    project.settings("", command)
    done = project.run("preBuild")
    assert done.returncode == 1
    assert words in done.stderr


def test_a_project_without_models_has_nothing_to_do(project):
    done = project.run("preBuild")
    assert done.returncode == 0, done.stderr
    assert ":tfBnfold UP-TO-DATE" in done.stdout
