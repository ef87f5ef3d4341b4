"""docs/benchmarks.md, and the section of README.md, from docs/benchmarks.json."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import accuracy, command, fold, latency
from benchmarks.measuring import Figure, ratio

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- benchmarks: written by `make bench` -->", "<!-- end of benchmarks -->"

Results = Mapping[str, Any]  # by group: date, versions, machine and figures


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of one quantity: a line for each case, a column for each subject.

    Attributes:
      title: Its heading.
      quantity: The quantity, or the beginning of its name where several share a table.
      baseline: The subject that ratios are to; "" for none.
      text: What to know of it.
      cases: The cases to show; all by default.
      subjects: The columns to show; all by default.
    """

    title: str
    quantity: str
    baseline: str = ""
    text: str = ""
    cases: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()

    def render(self, figures: Sequence[Figure], *, brief: bool = False) -> str:
        """Return the Markdown of the table, "" where nothing of it was measured.

        Args:
          figures: Those of its group.
          brief: Leave out the heading, the text, and minimum and maximum.
        """
        found = [each for each in figures if each.quantity == self.quantity]
        cases = [each for each in _names(figure.case for figure in found) if not self.cases or each in self.cases]
        subjects = self.subjects or _names(figure.subject for figure in found)
        if not cases:
            return ""
        by_place = {(figure.case, figure.subject): figure for figure in found}
        lines = [["", *subjects], ["---"] * (len(subjects) + 1)]
        lines += [[case, *(self._cell(by_place, case, subject, brief=brief) for subject in subjects)] for case in cases]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return body if brief else f"### {self.title}\n\n{self.text}\n\n{body}\n"

    def _cell(self, figures: Mapping[tuple[str, str], Figure], case: str, subject: str, *, brief: bool) -> str:
        figure = figures.get((case, subject))
        if figure is None or not figure.samples:
            return figure.note if figure else "-"
        cell = number(figure.median)
        if not brief and len(figure.samples) > 1:
            cell += f" [{number(min(figure.samples))}, {number(max(figure.samples))}]"
        baseline = figures.get((case, self.baseline))
        if baseline and baseline.samples and baseline is not figure:
            cell += f"; **{factor(ratio(figure, baseline))}**"
        return cell


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def number(value: float) -> str:
    """Return a number with three digits that count, and no exponent where that is readable."""
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}"


def factor(value: float) -> str:
    """Return a ratio: with two decimals near one, where small differences count."""
    return f"{value:.2f}x" if value < 3 else f"{value:,.1f}x" if value < 100 else f"{value:,.0f}x"


_CHAINS = ("1,000 blocks, fused", "1,000 blocks, decomposed", "ResNet152, fused", "ResNet152, decomposed")

TABLES: Mapping[str, tuple[Table, ...]] = {
    "fold": (
        Table(
            "CPU seconds",
            fold.SECONDS,
            fold.OURS,
            "Ratios are to tf_bnfold: above one, the other is slower. The first column is `tf_bnfold.fold_graph_def`, "
            "with its report; the second the fold without the report.",
        ),
        Table(
            "Memory",
            fold.MEMORY,
            fold.OURS,
            f"{fold.MEMORY}: how far the process grows, one run each of what is not run once only above.",
        ),
        Table(
            "What is left",
            fold.LEFT,
            text="Number of batch norms, and of Rsqrt, Mul and Sub, in the result; zero is folded.",
        ),
    ),
    "command": (
        Table("Wall time", command.SECONDS, command.STOCK, "Seconds of the whole command, start of Python included."),
        Table("CPU time", command.CPU_SECONDS, command.STOCK, "Of all processes and threads."),
        Table("Peak memory", command.PEAK, command.STOCK, "MB of all processes together."),
    ),
    "latency": tuple(
        Table(latency.quantity(form, threads), latency.quantity(form, threads), latency.STOCK, "Milliseconds a call.")
        for form in ("float32", "int8", "ONNX")
        for threads in (1, 2)
    )
    + tuple(
        Table(f"{form}: ops", f"{form}, {latency.OPS}", text="Ops of the .tflite, in all subgraphs.")
        for form in ("float32", "int8")
    ),
    "accuracy": (
        Table("Largest error", accuracy.LARGEST, accuracy.BEFORE, "max|a-b| / max|b|, b from the run in float64."),
        Table("Median error", accuracy.MEDIAN, accuracy.BEFORE, "median|a-b| / max|b|."),
        *(
            Table(accuracy.sqnr(mode), accuracy.sqnr(mode), text="Beside the float graph before folding.")
            for mode in ("float16", "int8")
        ),
    ),
}

ABOUT = {
    "fold": (
        "The fold of a GraphDef",
        "Chains of convolution, batch norm and ReLU, of four channels; Concats of many convolutions with a batch norm "
        "behind; ResNet152 with its 58 million weights. Batch norms are fused, or decomposed as Keras 3 exports them. "
        "Beside it: `optimize_for_inference_lib` of TensorFlow (`fuse_decomposed_batch_norm` and `fold_batch_norms`), "
        "Grappler (`constfold`, `remap`), which leaves FusedBatchNorm to be computed together with the convolution, "
        "and a copy of the GraphDef, which is what any fold has to do at least. Time is CPU time of the process, which "
        "other processes hardly change; a tool that takes more than {once_above:g} seconds is run once.",
    ),
    "command": (
        "The command",
        "`tf_bnfold --saved_model ... --tflite ... --report ...` with and without verification, beside a script of "
        "three lines that runs the stock converter on the same SavedModel. Ratios are to the stock converter.",
    ),
    "latency": (
        "What comes out",
        "LiteRT with XNNPACK, and onnxruntime, at batch size 1; the stock converter's beside ours and, where there is "
        "one, an ideal by hand: the same network written without batch norms (for SAME padding with one Add in place "
        "of each, as no offset may pass it), by the stock converter. Models are exported with a free batch size, as "
        "Keras does, and where it says so with a fixed one. Calls are interleaved; ratios are medians of the ratios in "
        "each round, to the stock converter's. For ONNX stock is tf2onnx by itself.",
    ),
    "accuracy": (
        "Accuracy",
        "Errors of the outputs beside a run of the original in float64, before and after the fold; and signal to "
        "quantisation noise without and with it. [The table of quantisation](quantisation_table.md) has all modes.",
    ),
}

SUMMARY: Mapping[str, tuple[str, Table]] = {
    "fold": ("CPU seconds of a fold; ratios are to tf_bnfold", Table("", fold.SECONDS, fold.OURS, cases=_CHAINS)),
    "command": ("CPU seconds of the whole command", Table("", command.CPU_SECONDS, command.STOCK)),
    "latency": (
        "Milliseconds of a call of the .tflite in float32, one thread",
        Table("", latency.quantity("float32", 1), latency.STOCK),
    ),
    "accuracy": ("Largest error beside float64", Table("", accuracy.LARGEST, accuracy.BEFORE)),
}


def slopes(figures: Sequence[Figure]) -> str:
    """Return the log-log slope of time over length for the chains, between the shortest and the longest one."""
    lines = []
    for norm in ("fused", "decomposed"):
        for subject in (fold.OURS, fold.NO_REPORT, fold.COPY, fold.OPTIMIZE, fold.GRAPPLER):
            points = [
                (int(figure.case.split(" ")[0].replace(",", "")), figure.median)
                for figure in figures
                if figure.case.endswith(f"blocks, {norm}") and figure.subject == subject
                if figure.quantity == fold.SECONDS and figure.samples
            ]
            if len(points) > 1:
                (short, little), (long, much) = min(points), max(points)
                slope = math.log(much / little) / math.log(long / short)
                lines.append(f"| {norm} | {subject} | {short:,} to {long:,} | {slope:.2f} |")
    if not lines:
        return ""
    head = ["### Slope", "", "Of log time over log length of the chain; 1 is linear.", ""]
    return "\n".join([*head, "| | | blocks | slope |", "|---|---|---|---|", *lines, ""])


def steps(figures: Sequence[Figure]) -> str:
    """Return the tables of seconds by step."""
    parts = []
    for subject in (command.UNVERIFIED, command.VERIFIED):
        quantity = f"{command.STEP}{subject}"
        parts.append(Table(f"By step: {subject}", quantity, text="Seconds, medians.").render(figures))
    return "\n".join(part for part in parts if part)


_EXTRA = {"fold": slopes, "command": steps}


def load(file: pathlib.Path = RESULTS) -> dict[str, Any]:
    """Return the results so far."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def of_group(results: Results, group: str) -> list[Figure]:
    """Return the figures of a group."""
    return [Figure(**{**each, "samples": tuple(each["samples"])}) for each in results[group]["figures"]]


def _when(result: Mapping[str, str]) -> str:
    return f"{result['date']}; {result['versions']}; {result['machine']}."


def page(results: Results) -> str:
    """Return docs/benchmarks.md."""
    parts = [
        "<!-- Written by `make bench`; change benchmarks/ instead. -->",
        "# Benchmarks",
        "`make bench` writes this page, [the figures](benchmarks.json) and the summary in [README](../README.md); "
        "`make bench BENCH=latency` measures one group again. A load average above zero tells that other programs ran "
        "too: CPU times and ratios can be trusted more than wall times then. Each cell has the median, in brackets "
        "the least and the largest where there were several runs, and in bold the ratio to the column that the "
        "section names. "
        "[Where the time goes](profile.md) reads the profiles.",
    ]
    for group, (title, about) in ABOUT.items():
        if group not in results:
            continue
        figures = of_group(results, group)
        tables = [table.render(figures) for table in TABLES[group]]
        extra = _EXTRA[group](figures) if group in _EXTRA else ""
        about = about.format(once_above=fold.Settings().once_above)
        parts += [f"## {title}", about, _when(results[group]), *(part for part in (*tables, extra) if part)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def summary(results: Results) -> str:
    """Return the section of the README, between its marks."""
    parts = [BEGIN]
    for group, (title, table) in SUMMARY.items():
        if group in results:
            parts += [f"{title} ({results[group]['date']}):", table.render(of_group(results, group), brief=True)]
    if results:
        parts.append(_when(results[max(results, key=lambda group: results[group]["date"])]))
    return "\n\n".join([*parts, END])


def with_summary(readme: str, results: Results) -> str:
    """Return the README with the section of these results.

    Raises:
      ValueError: If it has no place for it.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the README has no marks around its benchmarks")
    return before + summary(results) + after


def write(results: Results) -> None:
    """Write the results, the page and the section."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    README.write_text(with_summary(README.read_text(encoding="utf-8"), results), encoding="utf-8")
