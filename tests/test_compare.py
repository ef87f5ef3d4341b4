"""What changed between two reports."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from tf_bnfold import compare
from tf_bnfold.errors import InputError, UnfoldedError
from tf_bnfold.outcome import Kind, Outcome, Status
from tf_bnfold.reasons import Reason, Refusal
from tf_bnfold.report import Measurement, Report, Result, Run, Size
from tf_bnfold.table import comparison_text

SHARED = Refusal(Reason.SHARED, "conv")


def norm(name: str, status: Status = Status.UP, channels: int = 8) -> Outcome:
    kept = SHARED if status in (Status.KEPT, Status.PARTLY) else None
    return Outcome(name, (name,), "FusedBatchNormV3", Kind.BATCH_NORM, channels, status, refusal=kept)


def report(*outcomes: Outcome, error: float = 1e-7, after: int = 10) -> dict:
    measured = Measurement("a with b", True, error=error, limit=1e-3)
    size = Size({"Conv2D": after}, 1000 * after)
    return Report(
        Result(outcomes, Size({"Conv2D": 20}, 20000), size, tflite=size),
        Run(versions={"tf": "1"}, measurements=(measured,)),
    ).to_dict()


def text(old: dict, new: dict) -> str:
    return comparison_text(compare.changes(old, new), "old.json", width=80, colour=False)


def test_equal_reports_say_so():
    assert text(report(norm("a")), report(norm("a"), error=1.5e-7)) == "Compared with old.json: nothing changed."


def test_all_that_changed_is_told():
    old = report(norm("a"), norm("b"), norm("c", Status.KEPT), norm("gone", channels=3))
    new = report(norm("a", Status.DOWN), norm("b", Status.PARTLY), norm("c"), norm("d"), error=1e-5, after=12)
    new["run"]["versions"]["tf"] = "2"
    assert (
        text(old, new)
        == """\
Compared with old.json
                                  old      new
  batch norms folded up             3        2
  batch norms folded down           0        1
  batch norms partly folded         0        1
  batch norms kept                  1        0
  graph after folding, ops         10       12
  graph after folding, bytes   10,000   12,000
  TFLite, ops                      10       12
  TFLite, bytes                10,000   12,000
  largest error, a with b     1.0e-07  1.0e-05
  tf                                1        2
  folds no longer, or less: b: folded up -> partly folded (SHARED at conv)
  folds now, or more: c: kept (SHARED at conv) -> folded up
  otherwise: a: folded up -> folded down
  gone: gone: folded up
  new: d: folded up"""
    )


def test_colour_warns_of_a_loss():
    changes = compare.changes(report(norm("a")), report(norm("a", Status.KEPT)))
    assert comparison_text(changes, "o", width=80, colour=True).startswith("\033[1;33mCompared with o\033[0m")
    gained = compare.changes(report(norm("a", Status.KEPT)), report(norm("a")))
    assert comparison_text(gained, "o", width=80, colour=True).startswith("\033[1mCompared with o\033[0m")


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        (Status.UP, Status.KEPT, True),
        (Status.HALVES, Status.PARTLY, True),
        (Status.PARTLY, Status.KEPT, True),
        (Status.UP, Status.DOWN, False),
        (Status.KEPT, Status.PARTLY, False),
        (Status.KEPT, Status.KEPT, False),
    ],
)
def test_what_folds_less_is_lost(old, new, lost):
    before, after = report(norm("a", old)), report(norm("a", new))
    assert bool(compare.changes(before, after).lost) is lost
    if lost:
        with pytest.raises(UnfoldedError, match=r"^--compare=o: 1 batch norm folds less than it did: a \("):
            compare.require_no_loss(before, after, "o")
    else:
        compare.require_no_loss(before, after, "o")


def test_an_affine_is_no_loss():
    affine = dataclasses.replace(norm("a"), kind=Kind.AFFINE)
    kept = dataclasses.replace(norm("a", Status.KEPT), kind=Kind.AFFINE)
    assert compare.changes(report(affine), report(kept)).lost == ()


def test_many_are_counted():
    names = "abcde"
    with pytest.raises(UnfoldedError, match=r"5 batch norms fold less than they did: a .*, b .*, c .* and 2 more"):
        compare.require_no_loss(report(*map(norm, names)), report(*(norm(name, Status.KEPT) for name in names)), "o")
    shown = text(report(*(norm(f"n{i}") for i in range(30))), report(*(norm(f"n{i}", Status.KEPT) for i in range(30))))
    assert "n9: " in shown
    assert "n10: " not in shown
    assert "  ... and 20 more" in shown


def test_a_model_that_was_renamed_is_compared_in_order():
    old = report(norm("m/a"), norm("m/b", channels=4), norm("same"))
    changes = compare.changes(old, report(norm("m_1/a"), norm("m_1/b", Status.KEPT, 4), norm("same")))
    assert (changes.gone, changes.new) == ((), ())
    assert [site.name for site in changes.lost] == ["m_1/b"]
    other = compare.changes(old, report(norm("m_1/a"), norm("m_1/b", Status.KEPT, 5), norm("same")))
    assert [site.name for site in other.gone] == ["m/a", "m/b"]
    assert [site.name for site in other.new] == ["m_1/a", "m_1/b"]
    assert other.lost == ()


def test_what_one_report_lacks_is_no_change():
    new = report(norm("a"))
    new["result"]["tflite"] = None
    new["run"]["verification"] = []
    assert compare.changes(report(norm("a")), new) == compare.Changes((), (), (), ())


def test_a_stored_report_is_read_back(tmp_path):
    file = tmp_path / "r.json"
    file.write_text(json.dumps(report(norm("a"))), "utf-8")
    assert compare.read_report(str(file)) == report(norm("a"))


def broken(edit) -> str:
    made = copy.deepcopy(report(norm("a")))
    edit(made)
    return json.dumps(made)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "no JSON; give a file that --report=FILE.json wrote"),
        (b"{", "no JSON; give a file"),
        (b"[" * 100_000, "no JSON; give a file"),
        (b"[]", "no report; give a file"),
        (b"{}", "no report; give a file"),
        (b'{"schema_version": 1, "result": 3}', "no report; give a file"),
        (broken(lambda r: r.update(schema_version=2)).encode(), "a report of schema_version 2; 1 can be compared"),
        (broken(lambda r: r["result"]["sites"][0].pop("status")).encode(), "no report; give a file"),
        (broken(lambda r: r["result"]["sites"].append(7)).encode(), "no report; give a file"),
        (broken(lambda r: r["run"].update(verification=[{}])).encode(), "no report; give a file"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, content, words):
    file = tmp_path / "old.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        compare.read_report(str(file))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="can't be read: No such file or directory"):
        compare.read_report(str(tmp_path / "no.json"))
