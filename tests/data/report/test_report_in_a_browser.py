"""The report in a real browser: sorted, searched, coloured, at both widths, with text that would be code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data import Lake
from data.report.page import write
from data.report.source import Source

sys.path.append(str(Path(__file__).parents[1] / "human"))

from browser import CHROMIUM, Browser, until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def page(hostile: Source, tmp_path: Path) -> Path:
    out = tmp_path / "report.html"
    write(hostile, out)
    return out


def pressed(browser: Browser, selector: str) -> None:
    """A real click on an element, once it is in the window."""
    browser.ask(
        f"document.querySelector({json.dumps(selector)}).scrollIntoView({{ block: 'center', inline: 'center' }})"
    )
    browser.click(selector)


def column(browser: Browser, section: str, number: int) -> list[str]:
    """A column of a section's first table, as it is shown."""
    rows = (
        f"[...document.querySelector('#{section} table').tBodies[0].rows].map((row) => row.cells[{number}].textContent)"
    )
    return list(browser.ask(rows))


def test_a_click_sorts_and_another_turns_it_and_what_is_not_known_stays_last(
    browser: Browser, lake: Lake, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    write(Source(lake, tmp_path, "demo", "chrf + length"), out)
    browser.open(out)
    place = list(browser.ask("[...document.querySelectorAll('#pool th')].map((th) => th.textContent)")).index("invalid")
    head = f"#pool th:nth-child({place + 1})"
    assert column(browser, "pool", place) == ["1", "0", ""]
    pressed(browser, f"{head} button")
    assert column(browser, "pool", place) == ["1", "0", ""]
    assert browser.ask(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    pressed(browser, f"{head} button")
    assert column(browser, "pool", place) == ["0", "1", ""]
    pressed(browser, "#pool th:first-child button")
    assert column(browser, "pool", 0) == ["chrf", "expression", "length"]
    assert browser.ask("document.querySelectorAll('#pool [aria-sort]').length") == 1


def shown(browser: Browser) -> list[str]:
    """Texts of the samples that are seen."""
    cards = "[...document.querySelectorAll('article')].filter((card) => card.checkVisibility())"
    return list(browser.ask(f"{cards}.map((card) => card.querySelector('.text').textContent)"))


def test_a_search_finds_samples_that_are_folded_away(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = shown(browser)
    assert 0 < len(before) < browser.ask("document.querySelectorAll('article').length")
    pressed(browser, "#search")
    browser.write("ÓLAVSØKA  h2")
    until(lambda: browser.ask("document.getElementById('found').textContent") == "3 of 24 samples")
    found = shown(browser)
    assert len(found) == 3 and all("ólavsøka" in text for text in found) and len(before) != 3
    browser.ask("document.getElementById('search').value = ''")
    browser.ask("document.getElementById('search').dispatchEvent(new Event('input'))")
    assert shown(browser) == before


def test_samples_are_coloured_by_what_is_chosen_and_runs_are_switched_off(browser: Browser, page: Path) -> None:
    browser.open(page)

    def colours() -> set[str]:
        return set(
            browser.ask("[...document.querySelectorAll('article i')].map((i) => getComputedStyle(i).backgroundColor)")
        )

    by_advantage = colours()
    pressed(browser, "[value=surprise]")
    by_surprise = colours()
    pressed(browser, "[value=none]")
    assert len(by_advantage) > 2 and len(by_surprise) == 6 and by_surprise != by_advantage and len(colours()) == 1
    drawn = "[...document.querySelectorAll('#training .charts [data-run]')]"
    lines = f"{drawn}.filter((g) => getComputedStyle(g).display !== 'none').map((g) => g.dataset.run)"
    assert set(browser.ask(lines)) == {"0", "1"}
    pressed(browser, "[data-shows='1']")
    assert set(browser.ask(lines)) == {"0"}


def test_text_stays_text_and_no_request_leaves(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.ask("window.ran") is None
    assert "<script>window.ran = 1</script>∎" in browser.ask(
        "[...document.querySelectorAll('.text')].map((e) => e.textContent)"
    )
    assert browser.ask("document.querySelectorAll('script, style, img, link, iframe').length") == 2
    assert browser.ask("document.querySelectorAll('.prompt *').length") == 0
    requests = [event["request"]["url"] for event in browser.said("Network.requestWillBeSent")]
    assert requests == [page.as_uri()]
    assert browser.said("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded") == []
    browser.ask(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = 1' }))"
    )
    browser.ask("document.body.append(Object.assign(new Image(), { src: 'http://example.org/a.png' }))")
    until(lambda: browser.ask("1") and len(browser.said("Log.entryAdded")) >= 2)
    assert browser.ask("window.ran") is None


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window_in_light_and_dark(browser: Browser, page: Path, width: int) -> None:
    colours: list[Any] = []
    for scheme in ("light", "dark"):
        browser.look(width, 800, scheme)
        browser.open(page)
        browser.ask("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert browser.ask("document.documentElement.scrollWidth") <= width
        colours.append(browser.ask("getComputedStyle(document.documentElement).backgroundColor"))
        small = "[...document.querySelectorAll('.chart')].filter((c) => c.getBoundingClientRect().width < 250).length"
        assert browser.ask(small) == 0
    assert colours[0] != colours[1]


def test_on_paper_everything_is_light_and_open(browser: Browser, page: Path) -> None:
    browser.look(1280, 800, "dark")
    browser.open(page)
    browser.send("Page.printToPDF")  # the page hears of it as of a person's print
    assert browser.ask("document.querySelectorAll('details:not([open])').length") == 0
    browser.send(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert browser.ask("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not browser.ask("document.getElementById('search').checkVisibility()")
