"""docs/android.md, step by step: its files are written and its commands are run, in its order, in an empty home."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ai_edge_litert.interpreter import Interpreter

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "android.md").read_text(encoding="utf-8")
# A file is a block behind a line that ends with its name; a command is an indented line with a prompt.
STEP = re.compile(r"`([\w./]+)`:\n\n```\w*\n(.*?)^```$|^    \$ ([^\n]*)$", re.MULTILINE | re.DOTALL)
DEBIAN = Path("/usr/share/bazel/tools/skylib")
NEEDED = {"gradle": shutil.which("gradle"), "bazel": shutil.which("bazel") and DEBIAN.exists()}


@dataclasses.dataclass(frozen=True)
class Ran:
    """The home after all steps, and what each command printed."""

    project: Path
    printed: dict[str, str]

    def printed_by(self, program: str) -> str:
        if not NEEDED[program]:
            pytest.skip(f"needs Debian's {program}: make android-packages")
        return next(text for command, text in self.printed.items() if command.startswith(program))


def stubs() -> str:
    """Return the repositories that Bazel would download, as tests/bazel has them."""
    text = (ROOT / "tests" / "bazel" / "WORKSPACE").read_text(encoding="utf-8")
    return re.search(r"^\[\n.*^\]$", text, re.MULTILINE | re.DOTALL)[0].replace(
        '"stubs/', f'"{ROOT}/tests/bazel/stubs/'
    )


def steps() -> Iterator[tuple[str, str, str]]:
    """Yield the name and the text of a file, or a command."""
    for match in STEP.finditer(DOCUMENT):
        yield match[1] or "", match[2] or "", match[3] or ""


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    home = tmp_path_factory.mktemp("home")
    project, programs = home / "project", home / "bin"
    project.mkdir()
    programs.mkdir()
    (home / "tf_bnfold").symlink_to(ROOT)
    (home / ".bazelrc").write_text("startup --batch\nbuild --experimental_repository_disable_download\n")
    (programs / "tf_bnfold").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tf_bnfold "$@"\n')
    (programs / "tf_bnfold").chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "GRADLE_USER_HOME": str(home / ".gradle"),
        "GRADLE_OPTS": "-Dorg.gradle.daemon=false",
    }
    printed = {}
    for name, text, command in steps():
        if name:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text + (stubs() if name == "WORKSPACE" else ""))
        elif NEEDED.get(command.split()[0], True) and (NEEDED["bazel"] or "bazel-bin" not in command):
            call = ["bash", "-c", command]
            done = subprocess.run(call, cwd=project, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed[command] = done.stdout
    yield Ran(project, printed)
    subprocess.run(["chmod", "-R", "u+w", str(home / ".cache")], check=False)  # Bazel's outputs are read-only
    shutil.rmtree(home / ".cache", ignore_errors=True)


def test_the_document_has_the_steps_that_are_meant():
    found = list(steps())
    assert [name for name, _, _ in found if name] == [
        "export.py", "settings.gradle", "app/build.gradle", "WORKSPACE", "app/BUILD",
    ]  # fmt: skip
    programs = [command.split()[0] for _, _, command in found if command]
    assert programs == ["python", "mkdir", "tf_bnfold", "cp", "mkdir", "mv", "echo", "gradle", "bazel", "cat"]


def test_every_other_command_in_it_is_run_too():
    assert len(re.findall(r"^    ", re.sub(r"```.*?```", "", DOCUMENT, flags=re.DOTALL), re.MULTILINE)) == 10


def test_the_asset_made_by_hand_has_a_fixed_batch_size(ran):
    asset = ran.project / "app" / "src" / "main" / "assets" / "detector.tflite"
    assert Interpreter(str(asset)).get_input_details()[0]["shape_signature"].tolist() == [1, 32, 32, 3]


def test_gradle_converted_the_model(ran):
    printed = ran.printed_by("gradle")
    assert re.search(r":app:tfBnfoldDetector\n2 batch norms: all folded", printed)
    assert "BUILD SUCCESSFUL" in printed


def test_bazel_built_the_same_file(ran):
    ran.printed_by("bazel")
    report = json.loads(next(text for command, text in ran.printed.items() if command.startswith("cat bazel-bin")))
    assert report["result"]["batch_norms"]["folded_up"] == 2
    built = ran.project / "bazel-bin" / "app" / "assets" / "detector.tflite"
    assert built.read_bytes() == (ran.project / "app" / "src" / "main" / "assets" / "detector.tflite").read_bytes()
