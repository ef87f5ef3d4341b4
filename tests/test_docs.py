"""The pages that are generated are those that the code gives, and links lead somewhere."""

from __future__ import annotations

import re

import pytest

from docs import generate
from tf_bnfold.fold import laws


@pytest.mark.parametrize("name", generate.PAGES)
def test_the_committed_page_is_the_generated_one(name, pytestconfig):
    committed = (pytestconfig.rootpath / "docs" / name).read_text(encoding="utf-8")
    assert committed == generate.PAGES[name](), "run `make docs`"


def test_each_law_has_an_example_and_each_example_a_law():
    assert set(generate.EXAMPLES) == set(laws._TABLE)


def test_conditions_are_those_of_the_laws():
    conditions = {op: generate.condition(generate.law_of(op)) for op in ("Mean", "MaxPool", "Relu", "Sum", "Pad")}
    assert conditions == {
        "Mean": "any",
        "MaxPool": "scale ≥ 0",
        "Relu": "scale ≥ 0, offset 0",
        "Sum": "offset 0",
        "Pad": "fits the padding",
    }


def test_an_example_without_a_law_is_an_error(monkeypatch):
    monkeypatch.setitem(generate.EXAMPLES, "Relu", generate.EXAMPLES["Identity"])
    with pytest.raises(StopIteration):
        generate.law_of("Relu")
    monkeypatch.delitem(laws._TABLE, "Identity")
    with pytest.raises(ValueError, match="the example of Identity has no law: NO_LAW"):
        generate.law_of("Identity")


def test_a_rule_without_a_docstring_is_an_error():
    def bare() -> None:
        pass

    bare.__qualname__ = "test_a_rule_without_a_docstring_is_an_error"
    with pytest.raises(ValueError, match="has no docstring"):
        generate.description(bare)


LINKED = ("how_it_works.md", "adding_an_op.md", "flags.md", "laws.md", "reasons.md", "applications.md")


@pytest.mark.parametrize("name", LINKED)
def test_links_and_paths_are_there(name, pytestconfig):
    folder = pytestconfig.rootpath / "docs"
    page = (folder / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", page):
        assert link.startswith("https://") or (folder / link).exists(), link
    for path in re.findall(r"`((?:tf_bnfold|tests|docs)/[^`]*)`", page):
        assert (pytestconfig.rootpath / path).exists(), path
