"""A gate that gates nothing is a fault (museum, row 10): each one is shown to fail on a planted fault."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = '"""A module."""\n\nfrom __future__ import annotations\n\nX = 1\n\n\n'


def run(*module: str, stdin: str = "", cwd) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *module]
    return subprocess.run(command, input=stdin, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import os\n", "F401"),
        ("X = 1  # " + "x" * 120 + "\n", "E501"),
        ("def f() -> None:\n    pass\n", "D103"),
        ('def f(x: int, flag: bool = True) -> None:\n    """Do it."""\n    del x, flag\n', "FBT001"),
        ('def f(x: int) -> int:\n    """Do it."""\n    return 1\n', "ARG001"),
        ("try:\n    X = 1\nexcept Exception:\n    X = 2\n", "BLE001"),
        ('print("x")\n', "T201"),
        ("from . import reasons\n", "TID252"),
        ('def f(x: int) -> int:\n    """Do it."""\n' + "".join(f"    if x == {i}:\n        x += 2\n" for i in range(10))
         + "    return x\n", "C901"),
        ("X = 1  # noqa: F401\n", "RUF100"),
    ],
)  # fmt: skip
def test_ruff_finds(pytestconfig, code, rule):
    command = ("ruff", "check", "--no-cache", "--output-format=concise", "--stdin-filename=tf_bnfold/planted.py", "-")
    result = run(*command, stdin=HEAD + code, cwd=pytestconfig.rootpath)
    assert result.returncode == 1
    assert rule in result.stdout


def test_ruff_finds_nothing_where_nothing_is(pytestconfig):
    command = ("ruff", "check", "--no-cache", "--stdin-filename=tf_bnfold/planted.py", "-")
    assert run(*command, stdin=HEAD + "X = 1\n", cwd=pytestconfig.rootpath).returncode == 0


def test_mypy_is_strict(pytestconfig, tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text(
        "def f(x):\n    return x\ndef g(x: int) -> str:\n    return x\ndef h() -> list:\n    return []\n"
    )
    config = f"--config-file={pytestconfig.rootpath / 'pyproject.toml'}"
    result = run("mypy", config, f"--cache-dir={tmp_path / 'cache'}", str(planted), cwd=tmp_path)
    assert result.returncode == 1
    found = set(re.findall(r"\[([a-z-]+)\]$", result.stdout, re.MULTILINE))
    assert found >= {"no-untyped-def", "return-value", "type-arg"}


def test_coverage_fails_below_its_limit(pytestconfig, tmp_path):
    package = tmp_path / "tf_bnfold"
    package.mkdir()
    (package / "__init__.py").write_text("def f(x):\n    if x:\n        return 1\n    return 2\n" * 5)
    (tmp_path / "test_it.py").write_text("import tf_bnfold\n\n\ndef test_it():\n    assert tf_bnfold\n")
    config = f"--cov-config={pytestconfig.rootpath / 'pyproject.toml'}"
    result = run("pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--cov", config, "test_it.py", cwd=tmp_path)
    assert result.returncode != 0
    assert "Required test coverage of" in result.stdout
    assert "1 passed" in result.stdout


def test_every_gate_is_in_make_test(pytestconfig):
    makefile = (pytestconfig.rootpath / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert [re.sub(r"^\t\$\(BIN\)/", "", line) for line in recipe.splitlines()] == [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "pytest -n 2 --dist loadfile --cov --cov-report=term",
    ]
    run = (pytestconfig.rootpath / ".ci" / "run").read_text(encoding="utf-8")
    assert run.endswith("\nexec make test\n")
    assert "\n  make bazel-test\n" in run


FINDS_A_WRONG_FOLD = "tests/test_algebra.py::test_scales_are_multiplied_in_float64"


def test_the_oldest_tensorflow_that_is_tested_is_the_oldest_that_installs(pytestconfig):
    makefile, setup, readme = (
        (pytestconfig.rootpath / name).read_text(encoding="utf-8") for name in ("Makefile", "setup.py", "README.md")
    )
    oldest = re.search(r"^OLDEST := (\S+)$", makefile, re.MULTILINE)[1]
    assert f'"tensorflow>={oldest}"' in setup
    assert f"TensorFlow {oldest} " in readme


# What `make test` must not let pass: the file, the text in it, and what is planted there.
FAULTS = {
    "a lint error": ("tf_bnfold/report.py", "import json\n", "import json\nimport os\n", "F401"),
    "a type error": (
        "tf_bnfold/report.py",
        "return sum(self.ops.values())",
        "return str(sum(self.ops.values()))",
        "return-value",
    ),
    "a wrong fold": (
        "tf_bnfold/algebra/linear.py",
        "factors = [_per_weight(scale, channel) for",
        "factors = [_per_weight(scale * 1.01, channel) for",
        f"FAILED {FINDS_A_WRONG_FOLD}",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_make_test_turns_red(fault, pytestconfig, tmp_path):
    name, text, planted, words = FAULTS[fault]
    copy, root = tmp_path / "copy", pytestconfig.rootpath
    skipped = (".git", ".venv*", "__pycache__", ".pytest_cache", ".coverage*", "out", ".hypothesis")
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*skipped))
    environment = tmp_path / "venv"
    environment.mkdir()
    (environment / "bin").symlink_to(Path(sys.executable).parent)
    for stamp in (".test", ".demo"):
        (environment / stamp).touch()
    file = copy / name
    assert text in file.read_text(encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace(text, planted), encoding="utf-8")
    # One test finds the fold, and what covers little needs no limit. mypy knows the rest of the tree from .mypy_cache.
    options = {**os.environ, "PYTEST_ADDOPTS": f"-x {FINDS_A_WRONG_FOLD} --no-cov", "PYTHONPATH": str(copy)}
    command = ["make", "--no-print-directory", "test", f"VENV={environment}"]
    done = subprocess.run(command, cwd=copy, env=options, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
