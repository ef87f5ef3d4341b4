"""The report as one HTML file that needs no network; its libraries are in `vendor`, with their licenses."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import shlex
from typing import Any

import jinja2
from markupsafe import Markup

from tf_bnfold.explain import KINDS, Network
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.page.data import data, prefix_of, reasons, rows
from tf_bnfold.report import Report, Size, counts

_FOLDER = importlib.resources.files("tf_bnfold.page")
# In the order in which they are loaded: each finds what it needs as a global of those before it.
_SCRIPTS = (
    "vendor/cytoscape.min.js",
    "vendor/cytoscape-dagre.min.js",
    "vendor/d3.min.js",
    "vendor/plot.min.js",
    "scopes.js",
    "graph.js",
    "plots.js",
    "page.js",
)
_WORDS = {
    Status.UP: "folded up",
    Status.DOWN: "folded down",
    Status.HALVES: "folded in halves",
    Status.PARTLY: "folded in part",
    Status.KEPT: "kept",
}


def render(report: Report, network: Network) -> str:
    """Return the page.

    Args:
      report: What to show.
      network: The graph before folding, with what folding did to it.
    """
    result = report.result
    scripts = [Markup(_read(name)) for name in _SCRIPTS]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    prefix = prefix_of(network)
    environment.filters["short"] = lambda text: _breakable(text.replace(prefix, "…/") if prefix else text)
    template = environment.from_string(_read("template.html"))
    return template.render(
        prefix=prefix,
        report=report,
        command=shlex.join(report.run.command),
        cards=_cards(report),
        statuses={status.value: words for status, words in _WORDS.items()},
        kinds={kind.value: words for kind, words in KINDS.items()},
        rows=rows(network),
        reasons=reasons(network),
        changed_ops=_changed_ops(result.before, result.after),
        data={**data(report, network), "prefix": prefix},
        style=Markup(_read("style.css")),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
    )


def _breakable(text: str) -> Markup:
    """Let a name break behind each slash, but not behind the mark of what is left out."""
    return Markup(Markup("/<wbr>").join(text.split("/")).replace("…/<wbr>", "…/"))


def _read(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the name by which the page's policy admits a script, and no other one."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _cards(report: Report) -> list[dict[str, Any]]:
    """List what the summary shows: a figure, what it counts, and a class for its colour."""
    result = report.result
    by_status = counts(result.of_kind(Kind.BATCH_NORM))
    cards = [{"figure": f"{by_status['found']:,}", "words": "batch norms found", "class": "plain"}]
    cards += [
        {"figure": f"{by_status[status.value]:,}", "words": words, "class": status.value}
        for status, words in _WORDS.items()
        if by_status[status.value] or status is not Status.PARTLY
    ]
    before, after = result.before, result.after
    cards += [
        {"figure": f"{before.total:,} → {after.total:,}", "words": "ops in the graph", "class": "plain"},
        {"figure": _both(_bytes(before.bytes), _bytes(after.bytes)), "words": "size of the graph", "class": "plain"},
    ]
    cards += [
        {"figure": _bytes(size.bytes), "words": f"{name}, {size.total:,} ops", "class": "plain"}
        for name, size in ((".tflite", result.tflite), (".onnx", result.onnx))
        if size
    ]
    return [*cards, _error_card(report)]


def _error_card(report: Report) -> dict[str, Any]:
    errors = [each.error for each in report.run.measurements if each.error is not None]
    if not report.run.measurements:
        return {"figure": "—", "words": "not verified (--noverify)", "class": "plain"}
    verified = all(each.verified for each in report.run.measurements)
    figure = f"{max(errors):.1e}" if errors else "—"
    words = "largest error, verified" if verified else "largest error, NOT verified"
    return {"figure": figure, "words": words, "class": "plain" if verified else Status.KEPT.value}


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"


def _both(before: str, after: str) -> str:
    """Return two sizes with the unit once where it is the same."""
    return f"{before.split()[0] if before.split()[1] == after.split()[1] else before} → {after}"


def _changed_ops(before: Size, after: Size) -> list[tuple[str, int, int]]:
    """List the types of op with their numbers before and after, those that changed first."""
    ops = [(op, before.ops.get(op, 0), after.ops.get(op, 0)) for op in {*before.ops, *after.ops}]
    return sorted(ops, key=lambda row: (row[1] == row[2], row[0]))
