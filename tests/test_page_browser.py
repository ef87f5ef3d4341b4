"""The page in a real browser: what a reader sees and does, on a desktop, on a phone and on paper."""

from __future__ import annotations

import json
import re
import time

import pytest
from browser import CHROMIUM, Browser
from pages import every_way, long_network, network_of, page_of
from test_page import HOSTILE, hostile_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

VIEW = "window.tfBnfold.view"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def show(browser, tmp_path):
    """A function that opens a page, and fails at the end if the page complained or asked for anything."""

    def opened(text: str, width: int = 1280, height: int = 900, *, mobile: bool = False) -> Browser:
        browser.requests.clear()
        browser.complaints.clear()
        browser.size(width, height, mobile=mobile)
        file = tmp_path / "report.html"
        file.write_text(text, "utf-8")
        browser.open(file)
        browser.wait("!!window.tfBnfold")
        return browser

    yield opened
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("file:")] == []


@pytest.fixture(scope="module")
def small() -> str:
    return page_of(network_of(every_way))


def centre(browser: Browser, node: str) -> tuple[float, float]:
    """Bring a node of the picture into the window, and return where it is; `node` is how its label begins."""
    browser.run("document.getElementById('graph').scrollIntoView()")
    browser.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")
    return tuple(
        browser.run(
            f"(() => {{ const {{ cy }} = {VIEW};"
            f"const found = cy.nodes().filter((each) => each.data('label').startsWith({json.dumps(node)}));"
            "cy.center(found[0]);"
            "const at = found[0].renderedPosition();"
            "const box = document.getElementById('graph').getBoundingClientRect();"
            "return [box.x + at.x, box.y + at.y]; })()"
        )
    )


def panel(browser: Browser) -> str:
    return browser.run("document.getElementById('panel').innerText")


def put(browser: Browser, field: str, value: str) -> None:
    """Give a field a value, as typing does."""
    script = (
        "(() => {{ const at = document.getElementById({}); at.value = {}; at.dispatchEvent(new Event('input')); }})()"
    )
    browser.run(script.format(json.dumps(field), json.dumps(value)))


def classes(browser: Browser, kind: str) -> list[str]:
    return browser.run(f"{VIEW}.cy.nodes('.{kind}').map((each) => each.data('label').split('\\n')[0])")


def test_a_click_on_a_batch_norm_shows_where_it_went(show, small):
    browser = show(small)
    browser.click(*centre(browser, "bn\nFusedBatchNormV3\n↓"))
    assert "Folded down, into down/conv (Conv2D) behind it." in panel(browser)
    assert classes(browser, "chosen") == ["bn"]
    sinks = browser.run(
        f"{VIEW}.cy.edges('.into').not('.faded').map((each) => each.target().data('label').split('\\n')[0])"
    )
    assert sinks == ["conv"]


def test_one_that_stayed_is_red_and_shows_its_reason_and_what_stopped_it(show, small):
    browser = show(small)
    browser.click(*centre(browser, "bn\nFusedBatchNormV3\n✕ kept"))
    assert "Not folded." in panel(browser)
    assert "SHARED at stays/conv" in panel(browser)
    assert "conv" in classes(browser, "stopped")
    colour = browser.run(f"{VIEW}.cy.nodes('.kept')[0].style('background-color')")
    assert colour == "rgb(178,24,43)"


def test_a_click_on_an_op_tells_its_part_and_one_beside_it_clears(show, small):
    browser = show(small)
    browser.run(f"{VIEW}.chooseOp(window.tfBnfold.data.ops.findIndex((op) => op[0] === 'down/conv'))")
    assert "Took" in panel(browser)
    assert "down/bn" in panel(browser)
    browser.run("document.querySelector('#panel button.site').click()")
    assert "Folded down" in panel(browser)
    browser.run(f"{VIEW}.clear()")
    assert classes(browser, "chosen") == []
    assert "Click a scope" in panel(browser)


def test_search_finds_any_op(show, small):
    browser = show(small)
    put(browser, "search", "SIGMOID")
    assert browser.run("document.querySelectorAll('#found button').length") >= 1
    browser.run("document.querySelector('#found button').click()")
    assert "stays/sigmoid" in panel(browser).replace("\n", "")
    put(browser, "search", "nothing like it")
    assert browser.run("document.getElementById('found').innerText") == "No op of that name."


def test_the_table_is_filtered_and_leads_to_the_picture(show, small):
    browser = show(small)
    rows = "[...document.querySelectorAll('#sites tbody tr')].filter((row) => !row.hidden).length"
    assert browser.run(rows) == 4
    put(browser, "status", "kept")
    assert browser.run(rows) == 1
    assert browser.run("document.getElementById('count').textContent") == "1 of 4"
    browser.run("document.querySelector('#sites tbody tr:not([hidden]) button').click()")
    assert "Not folded." in panel(browser)


def test_plots_are_drawn(show, small):
    browser = show(small)
    assert browser.run("document.querySelectorAll('#plots > figure svg').length") >= 3
    assert browser.run("document.querySelectorAll('#errors circle').length") > 8


def test_names_do_nothing_but_show(show):
    browser = show(hostile_page())
    browser.run(f"window.tfBnfold.data.sites.forEach((site) => {VIEW}.chooseSite(site))")
    browser.run(f"window.tfBnfold.data.ops.forEach((op, number) => {VIEW}.chooseOp(number))")
    browser.run(
        "(() => { const e = document.getElementById('search'); e.value = '<'; e.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run("document.querySelectorAll('#found button').length") > 0
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert HOSTILE[1] in browser.run("document.getElementById('sites').innerHTML && document.body.textContent")


def test_five_thousand_ops_open_at_once_and_can_be_walked(show):
    text = page_of(long_network(500))
    started = time.monotonic()
    browser = show(text)
    assert time.monotonic() - started < 20  # a few seconds on an idle machine
    assert browser.run("window.tfBnfold.data.ops.length") == 5000
    assert browser.run(f"{VIEW}.cy.nodes().length") < 80
    started = time.monotonic()
    browser.run(f"{VIEW}.chooseSite(window.tfBnfold.data.sites[777])")
    assert time.monotonic() - started < 5
    assert classes(browser, "chosen") == ["op5"]
    assert "block388/unit/op5" in panel(browser).replace("\n", "")
    assert browser.run("document.querySelectorAll('#sites tbody tr:not([hidden])').length") == 100
    browser.run("document.getElementById('more').click()")
    assert browser.run("document.querySelectorAll('#sites tbody tr:not([hidden])').length") == 1000


def test_scopes_open_and_close_under_a_click(show):
    browser = show(page_of(long_network(500)))
    before = browser.run(f"{VIEW}.cy.nodes().length")
    first = browser.run(f"{VIEW}.cy.nodes('.scope')[0].data('label')").split("\n")[0]
    browser.click(*centre(browser, first))
    opened = browser.run(f"{VIEW}.cy.nodes().length")
    assert opened > before
    browser.run(f"{VIEW}.home()")
    assert browser.run(f"{VIEW}.cy.nodes().length") == before


def test_a_phone_shows_it_all_without_scrolling_sideways(show, small):
    browser = show(small, 390, 844, mobile=True)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.getElementById('graph').clientWidth") > 300
    assert browser.run(f"{VIEW}.cy.userZoomingEnabled()") is True


def test_paper_has_the_picture_and_the_table(show, small, tmp_path):
    browser = show(small)
    browser.paper(tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert browser.run("document.getElementById('printed').width") > 100
    assert b"/Subtype /Image" in content
    assert 1 <= len(re.findall(rb"/Type /Page\b", content)) <= 12
