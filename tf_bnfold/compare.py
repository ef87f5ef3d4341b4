"""What changed between two reports, as a stored one and a new one have it in JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tf_bnfold.errors import InputError, UnfoldedError
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.report import SCHEMA_VERSION

_WHOLE = frozenset({Status.UP.value, Status.DOWN.value, Status.HALVES.value})
_NOTICED = 2.0  # factor by which an error must differ; less is rounding
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Site:
    """What a report says of a batch norm or affine; see docs/report.md."""

    name: str
    function: str
    kind: str
    form: str
    channels: int
    status: str
    why: str

    @property
    def folded(self) -> int:
        """How far it was folded: 0 not at all, 1 in part, 2 wholly."""
        return 2 if self.status in _WHOLE else int(self.status == Status.PARTLY.value)


@dataclasses.dataclass(frozen=True)
class Changes:
    """What changed.

    Attributes:
      sites: Old and new of each site that both have and of which something changed; the names may differ.
      gone: Sites of the old report alone.
      new: Sites of the new report alone.
      figures: What is counted or measured, old and new, where they differ.
    """

    sites: tuple[tuple[Site, Site], ...]
    gone: tuple[Site, ...]
    new: tuple[Site, ...]
    figures: tuple[tuple[str, str, str], ...]

    @property
    def lost(self) -> tuple[Site, ...]:
        """The batch norms that fold less than they used to."""
        return tuple(new for old, new in self.sites if new.folded < old.folded and new.kind == Kind.BATCH_NORM.value)


def read_report(path: str) -> Mapping[str, Any]:
    """Read a report.

    Raises:
      InputError: The file can't be read, or holds no report of this form.
    """
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except OSError as error:
        raise InputError(f"--compare={path}: can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--compare={path}: no JSON; give a file that --report=FILE.json wrote") from error
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version not in (None, SCHEMA_VERSION):
        raise InputError(f"--compare={path}: a report of schema_version {version!r}; {SCHEMA_VERSION} can be compared")
    try:
        changes(report, report)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"--compare={path}: no report; give a file that --report=FILE.json wrote") from error
    return report  # type: ignore[no-any-return]  # what has all fields of a report is one


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """Compare two reports, given as `Report.to_dict` has them.

    Sites are paired by name; if those that are left over are alike and in the same order in both reports, the model was
    renamed, and they are paired too.
    """
    before, after = _sites(old), _sites(new)
    gone = [site for place, site in before.items() if place not in after]
    added = [site for place, site in after.items() if place not in before]
    pairs = [(site, after[place]) for place, site in before.items() if place in after]
    if [_shape(site) for site in gone] == [_shape(site) for site in added]:
        pairs += zip(gone, added, strict=True)
        gone, added = [], []
    changed = tuple((one, other) for one, other in pairs if (one.status, one.why) != (other.status, other.why))
    return Changes(changed, tuple(gone), tuple(added), tuple(_figures(old, new)))


def require_no_loss(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> None:
    """Raise when a batch norm folds less than it used to.

    Args:
      old: The stored report.
      new: The report of this run.
      path: Where the stored one is.

    Raises:
      UnfoldedError: It names the first of them.
    """
    lost = changes(old, new).lost
    if lost:
        named = ", ".join(f"{site.name} ({site.why or site.status})" for site in lost[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        count = "1 batch norm folds less than it" if len(lost) == 1 else f"{len(lost)} batch norms fold less than they"
        raise UnfoldedError(f"--compare={path}: {count} did: {named}{more}")


def _sites(report: Mapping[str, Any]) -> dict[tuple[str, str], Site]:
    sites = (
        Site(
            name=str(each["name"]),
            function=str(each["function"]),
            kind=str(each["kind"]),
            form=str(each["form"]),
            channels=int(each["channels"]),
            status=str(each["status"]),
            why=f"{each['reason']} at {each['reason_node']}" if each["reason"] else "",
        )
        for each in report["result"]["sites"]
    )
    return {(site.function, site.name): site for site in sites}


def _shape(site: Site) -> tuple[str, str, int]:
    return site.kind, site.form, site.channels


def _figures(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    before, after = dict(_counted(old["result"])), dict(_counted(new["result"]))
    for name in (name for name in before if name in after and before[name] != after[name]):
        yield name, f"{before[name]:,}", f"{after[name]:,}"
    errors = [{each["compared"]: each["error"] for each in report["run"]["verification"]} for report in (old, new)]
    for name in (name for name in errors[0] if name in errors[1]):
        one, other = errors[0][name], errors[1][name]
        if one is not None and other is not None and not other / _NOTICED <= one <= other * _NOTICED:
            yield f"largest error, {name}", f"{one:.1e}", f"{other:.1e}"
    versions = [report["run"]["versions"] for report in (old, new)]
    for name in dict.fromkeys([*versions[0], *versions[1]]):
        one, other = versions[0].get(name), versions[1].get(name)
        if one != other:
            yield name, one or "none", other or "none"


def _counted(result: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for kind, title in (("batch_norms", "batch norms"), ("affines", "other per-channel ops")):
        for status, count in result[kind].items():
            yield f"{title} {status.replace('_', ' ')}", int(count)
    sizes = {"graph before folding": result["graph"]["before"], "graph after folding": result["graph"]["after"]}
    sizes |= {"TFLite": result["tflite"], "ONNX": result.get("onnx")}
    for title, size in sizes.items():
        if size:
            yield f"{title}, ops", int(size["total"])
            yield f"{title}, bytes", int(size["bytes"])
