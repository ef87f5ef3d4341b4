"""The README says only what is true."""

from __future__ import annotations

import re
import shlex

import pytest

from tf_bnfold import errors, flags


@pytest.fixture(scope="module")
def readme(pytestconfig) -> str:
    return (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")


def test_every_command_of_it_parses(readme, pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    lines = re.findall(r"^    (?:\$ )?(tf_bnfold --.*)$", readme, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        command = shlex.split(line, comments=True)
        flags.request(flags.parse(command), command)


def test_every_flag_in_it_is_one(readme):
    known = {flag.name for group in flags.GROUPS.values() for flag in group}
    named = set(re.findall(r"(?<![\w-])--([a-z0-9_]+)", readme))
    assert {name for name in named if name not in known and name.removeprefix("no") not in known} == set()


def test_the_exit_codes_are_those_of_the_errors(readme):
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)}
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert codes == {0} | {each.exit_code for each in classes}


def test_its_links_and_make_targets_are_there(readme, pytestconfig):
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert (pytestconfig.rootpath / link).exists(), link
    for path in re.findall(r"`((?:tf_bnfold|tests|configs|docs)/[^`]*)`", readme):
        assert (pytestconfig.rootpath / path).exists(), path
    makefile = (pytestconfig.rootpath / "Makefile").read_text(encoding="utf-8")
    targets = r"demo|test[\w-]*|fuzz|docs|applications|quantisation|bazel-test|bench"
    for target in re.findall(rf"\bmake ({targets})", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
