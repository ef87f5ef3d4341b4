"""The page: what is in it, that it needs nothing else, and that names are only ever text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from pages import every_way, long_network, network_of, page_of, report_of

from tf_bnfold import page
from tf_bnfold.explain import Network
from tf_bnfold.gpu import GpuCompatibility, Leaving, Operator
from tf_bnfold.graph.ops import Op
from tf_bnfold.outcome import Kind, Outcome, Status
from tf_bnfold.page.data import data, prefix_of
from tf_bnfold.reasons import Reason, Refusal
from tf_bnfold.report import Measurement, OutputQuality, Report, Result, Run, Sink, Size

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "'><svg onload=window.hacked=1>",
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>",
    "a&lt;b\u2028\u2029",
)


def hostile() -> Network:
    """A graph whose names, ops and functions are all meant to break out of the page."""
    ops, outcomes, sinks = [], [], []
    for function in ("", HOSTILE[0]):
        for name in HOSTILE:
            conv, norm = f"scope/{name}/conv", f"scope/{name}/bn"
            ops += [Op(conv, name, function, (), False, False), Op(norm, name, function, (conv,), False, True)]
            refusal = Refusal(Reason.SHARED, conv, name)
            outcomes += [
                Outcome(norm, (norm,), name, Kind.BATCH_NORM, 4, Status.PARTLY, (conv,), (conv,), refusal, function)
            ]
            sinks.append(Sink(conv, name, function, 2, 1.0, 40.0, ((1.0, 1.0), (1.0, 40.0))))
    size = Size(dict.fromkeys(HOSTILE, 1), 1)
    result = Result(tuple(outcomes), size, size, tflite=size, onnx=size, notes=HOSTILE, sinks=tuple(sinks))
    return Network(result, tuple(ops))


def hostile_page() -> str:
    network = hostile()
    quality = OutputQuality(HOSTILE[0], 0.1, 20.0, 0.9, 10.0)
    errors = {f"{name}{number}": 1e-6 for name in HOSTILE for number in range(2)}
    measured = Measurement(HOSTILE[1], False, 12, 1, 0, 1e-6, 1e-3, HOSTILE[2], {}, HOSTILE[0], (quality,), errors)
    run = Run(
        HOSTILE, dict.fromkeys(HOSTILE, HOSTILE[0]), dict.fromkeys(HOSTILE, 1.0), (measured,), {"page": HOSTILE[0]}
    )
    return page.render(Report(network.result, run), network)


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(every_way)


@pytest.fixture(scope="module")
def parsed(network) -> Parsed:
    return Parsed(page_of(network))


def test_names_are_only_ever_text(parsed):
    made = Parsed(hostile_page())
    assert {tag for tag, _ in made.elements} <= {tag for tag, _ in parsed.elements} | {"ul", "li", "br"}
    assert len(made.scripts) == len(parsed.scripts)
    assert made.scripts[1:] == parsed.scripts[1:]
    attributes = {name for _, attrs in made.elements for name in attrs}
    assert not {name for name in attributes if name.startswith("on")}
    found = json.loads(made.scripts[0])
    assert [op[1] for op in found["ops"]][:2] == [HOSTILE[0]] * 2
    assert "<" not in made.scripts[0]
    assert "49" not in re.sub(r"\d{3,}", "", "".join(HOSTILE))  # else the next line would show nothing
    assert "{{ 7 * 7 }}" in hostile_page()


def test_only_its_own_scripts_run(parsed):
    policy = next(
        attrs["content"] for tag, attrs in parsed.elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-inline" not in policy.split("script-src")[1]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in parsed.scripts[1:]]
    assert re.findall(r"sha256-([^']+)", policy) == hashes


def test_nothing_is_fetched(parsed):
    fetching = {"src", "href", "action", "data", "poster", "srcset"}
    assert [(tag, attrs) for tag, attrs in parsed.elements if fetching & attrs.keys()] == []
    style = page._read("style.css")
    assert "url(" not in style
    assert "@import" not in style


def test_no_script_ends_early():
    for name in page._SCRIPTS:
        assert "</script" not in page._read(name).lower(), name
        assert "<!--" not in page._read(name), name


def test_each_library_is_there_with_its_license():
    folder = page._FOLDER.joinpath("vendor")
    names = {each.name for each in folder.iterdir()}
    libraries = {name.removesuffix(".min.js") for name in names if name.endswith(".js")}
    assert libraries == {"cytoscape", "cytoscape-dagre", "d3", "plot"}
    assert {f"{library}.LICENSE" for library in (*libraries, "dagre")} <= names
    versions = page._FOLDER.joinpath("vendor/README.md").read_text(encoding="utf-8")
    assert all(f"`{library}.min.js`" in versions for library in libraries)


def test_the_summary_counts_and_says_the_command(network):
    text = page_of(network)
    assert '<code class="command">tf_bnfold --saved_model &#39;my model&#39;</code>' in text
    assert {words: figure for figure, words in re.findall(r'<div class="card \w+"><b>(.*?)</b>(.*?)</div>', text)} == {
        "batch norms found": "4", "folded up": "1", "folded down": "1", "folded in halves": "0", "folded in part": "1",
        "kept": "1", "ops in the graph": cards_of(network), "size of the graph": sizes_of(network),
        "largest error, verified": f"{1e-7 * len(network.ops):.1e}",
    }  # fmt: skip


def cards_of(network: Network) -> str:
    return f"{network.result.before.total} → {network.result.after.total}"


def sizes_of(network: Network) -> str:
    return page._both(page._bytes(network.result.before.bytes), page._bytes(network.result.after.bytes))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (43210, "43.2 kB"), (2.5e6, "2.5 MB"), (3e9, "3 GB")],
)
def test_sizes_are_short(number, text):
    assert page._bytes(int(number)) == text


def test_what_is_not_verified_is_not_called_so(network):
    failed = Measurement("a with b", False, 1, 1, error=0.5, limit=1e-3, worst="x")
    text = page.render(Report(network.result, Run(measurements=(failed,))), network)
    assert "<b>5.0e-01</b>largest error, NOT verified" in text
    assert "<td>NOT verified</td>" in text
    text = page.render(Report(network.result), network)
    assert "not verified (--noverify)" in text
    assert '<code class="command">' not in text


def test_the_verdict_on_the_gpu_delegate_is_there_where_it_was_asked_for(network):
    gpu = GpuCompatibility(9, (Leaving(Operator("<b>", "out"), 0, 1, "<i>why"),))
    text = page.render(Report(dataclasses.replace(network.result, gpu=gpu)), network)
    assert "1 of 9 ops would leave it for the CPU" in text
    assert "&lt;i&gt;why: &lt;b&gt; out" in text
    assert "GPU delegate" not in page_of(network)


def test_every_site_is_a_row_with_its_reason(network):
    text = page_of(network)
    assert re.findall(r'<tr data-status="(\w+)"', text) == [each.status.value for each in network.result.outcomes]
    assert "<td>SHARED</td>" in text
    assert Reason.SHARED.remedy.replace("'", "&#39;") in text


def test_a_graph_without_any_has_a_page():
    empty = Network(Result((), Size({}, 0), Size({}, 0)), ())
    assert "None was found." in page_of(empty)


def test_data_names_ops_by_place_and_leaves_constants_out(network):
    made = data(report_of(network), network)
    names = [op[0] for op in made["ops"]]
    assert "down/conv/weights" not in names
    site = next(each for each in made["sites"] if each["name"] == "stays/bn")
    assert [names[place] for place in site["nodes"]] == ["stays/bn"]
    assert names[site["stopped"][0]] == "stays/conv"
    site = next(each for each in made["sites"] if each["name"] == "down/bn")
    assert [names[place] for place in site["sinks"]] == ["down/conv"]
    bn = made["ops"][names.index("stays/bn")]
    assert [names[place] for place in bn[3]] == ["stays/conv"]


def test_a_plot_of_many_tensors_keeps_the_worst_of_each_stretch():
    network = long_network(1000)
    errors = {f"{op.name}:0": 1e-7 for op in network.ops} | {"block500/unit/op3:0": 0.25}
    measured = Measurement("inner", True, len(errors), 1, 0, 0.25, 1e-3, errors=errors)
    (plot,) = data(Report(network.result, Run(measurements=(measured,))), network)["errors"]
    assert plot["tensors"] == 10_000
    assert len(plot["points"]) <= 1500
    assert max(plot["points"], key=lambda point: point[1]) == ("block500/unit/op3:0", 0.25)


def test_ranges_that_are_not_finite_are_no_json_numbers():
    network = long_network(1)
    sink = Sink("block0/unit/op0", "Conv2D", "", 2, 1.0, 2.0, ((1.0, float("inf")), (1.0, 2.0)))
    result = dataclasses.replace(network.result, sinks=(sink,))
    made = data(Report(result), Network(result, network.ops))
    assert made["sinks"][0]["ranges"] == [[1.0, None], [1.0, 2.0]]
    json.dumps(made, allow_nan=False)


def test_the_prefix_is_of_whole_scopes():
    assert prefix_of(long_network(3, "top/net/b{}")) == "top/net/"
    assert prefix_of(long_network(3, "b{}")) == ""
    assert prefix_of(long_network(0)) == ""


def test_the_same_report_gives_the_same_page(network):
    assert page_of(network) == page_of(network)


def test_names_break_behind_slashes_but_not_behind_what_is_left_out():
    assert str(page._breakable("…/a<b>/c")) == "…/a&lt;b&gt;/<wbr>c"
