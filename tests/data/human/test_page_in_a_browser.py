"""The page in a real browser, from making it to win rates: by mouse and keys, through a reload, with text that would be code."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data import Lake

sys.path.append(str(Path(__file__).parent))

from browser import CHROMIUM, Browser, until
from judged import ALPHA, BETA, HOSTILE

from data.human.page import visible

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
Ran = Callable[..., str]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def page(judged_lake: Lake, ran: Ran, tmp_path: Path) -> Path:
    """40 pairs would be for people: 22 differ, 3 of them are shown again."""
    out = tmp_path / "pairs.html"
    said = ran("pairs", ALPHA, BETA, "--benchmark", "talk", "--lake", judged_lake.root, "--out", out, "--n", 40)
    assert f"{ALPHA} and {BETA}: 23 items answered by both, 1 of them alike; 22 pairs, 3 of them shown again" in said
    return out


def begin(browser: Browser, page: Path, name: str) -> None:
    browser.open(page)
    browser.write(name)
    browser.key("Enter")


def place(browser: Browser) -> str:
    return str(browser.ask("document.getElementById('place').textContent"))


def beta_is_first(browser: Browser, lake: Lake) -> bool:
    """What only the lake knows: whether beta's answer to the pair that is shown stands first."""
    number = int(place(browser).split()[1])
    return lake.sql('SELECT "first" FROM pairs WHERE pair = $n', n=number)["first"].to_pylist() == [BETA]


def test_judged_by_mouse_and_keys_through_a_reload_the_table_comes_back_as_win_rates(
    browser: Browser, page: Path, judged_lake: Lake, ran: Ran
) -> None:
    begin(browser, page, 'Anna "Á", O\'Hara')
    for number in range(1, 26):  # beta is better, but in the first pair shown, which is a tie
        assert place(browser) == f"Pair {number} of 25"
        first = beta_is_first(browser, judged_lake)
        if number == 1:
            browser.key("0")
        elif number % 2:
            browser.click(f'[data-verdict="{"first" if first else "second"}"]')
        else:
            browser.key(("1", "2", "ArrowLeft", "ArrowRight")[(number % 4) + (not first)])
        if number == 12:
            browser.reload()
    browser.click("#download")
    until(lambda: list(browser.downloads.glob("*.csv")))
    (table,) = browser.downloads.glob("*.csv")
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["pair"] for row in rows] == [str(n) for n in range(1, 26)]
    assert {row["rater"] for row in rows} == {'Anna "Á", O\'Hara'}

    lake = ("--lake", judged_lake.root)
    assert "25 judgements added, 0 changed, 0 known" in ran("ratings", table, *lake)
    assert "0 judgements added, 0 changed, 25 known" in ran("ratings", table, *lake)
    rate = judged_lake.sql(f"SELECT * FROM win_rates WHERE policy = '{BETA}'").to_pylist()[0]
    assert (rate["against"], rate["wins"], rate["ties"], rate["losses"], rate["items"]) == (ALPHA, 21, 1, 0, 22)
    assert rate["win_rate"] == pytest.approx(21.5 / 22) and rate["low"] < rate["win_rate"] < rate["high"]
    repeated = judged_lake.sql("SELECT list(repeats) AS r FROM pairs WHERE repeats IS NOT NULL")["r"][0].as_py()
    agreed = judged_lake.sql("SELECT repeats, self_equal FROM rater_agreement").to_pylist()
    assert agreed == [{"repeats": 3, "self_equal": pytest.approx((3 - (1 in repeated)) / 3)}]


def test_text_stays_text_no_request_leaves_and_no_policy_is_named(
    browser: Browser, page: Path, judged_lake: Lake
) -> None:
    html = page.read_text(encoding="utf-8")
    known = judged_lake.sql("SELECT DISTINCT policy, model_id, slice, item FROM evaluations").to_pylist()
    assert [word for row in known for word in row.values() if word in html] == []
    begin(browser, page, "Anna")
    for _ in range(25):
        browser.key("0")
    shown = browser.ask("[...document.querySelectorAll('.answer .text')].map((e) => e.textContent)")
    assert {visible(text) for text in HOSTILE if text.strip()} <= set(shown)
    assert browser.ask("document.querySelectorAll('.answer .text *, .message .text *').length") == 0
    assert browser.ask("document.querySelectorAll('script, style, img, link, iframe').length") == 2
    requests = [event["request"]["url"] for event in browser.said("Network.requestWillBeSent")]
    assert requests == [page.as_uri()]
    assert browser.said("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded") == []


def test_the_policy_of_the_page_lets_no_other_script_run_and_no_request_out(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = 1' }))"
    )
    browser.ask("document.body.append(Object.assign(new Image(), { src: 'http://example.org/a.png' }))")
    browser.ask("document.body.setAttribute('onclick', 'window.ran = 2')")
    browser.click("h1")
    assert browser.ask("window.ran") is None
    until(lambda: browser.ask("1") and len(browser.said("Log.entryAdded")) >= 3)
    assert {"security"} == {event["entry"]["source"] for event in browser.said("Log.entryAdded")}


def test_going_back_changes_a_verdict_and_a_held_key_is_one(browser: Browser, page: Path) -> None:
    begin(browser, page, "Anna")
    browser.key("1")
    browser.key("1", repeat=True)
    assert place(browser) == "Pair 2 of 25"
    browser.key("Backspace")
    assert browser.ask("document.querySelector('[aria-pressed=true]').dataset.verdict") == "first"
    browser.click('[data-verdict="second"]')
    browser.key("Enter")  # the button just clicked is not pressed again: this skips pair 2
    assert place(browser) == "Pair 3 of 25"
    stored = browser.ask("JSON.parse(localStorage.getItem(`ratings/${document.body.dataset.page}/Anna`)).verdicts")
    assert {number: verdict for number, (verdict, _) in stored.items()} == {"1": "second"}
    for _ in range(23):
        browser.key("Enter")
    assert browser.ask("document.getElementById('judged').textContent") == "1 of 25 pairs are judged."
    browser.click("#missing")
    assert place(browser) == "Pair 2 of 25"


def test_two_raters_share_a_browser(browser: Browser, page: Path, judged_lake: Lake, ran: Ran) -> None:
    begin(browser, page, "Anna")
    for _ in range(25):
        browser.key("1")
    browser.click("#download")
    browser.click("#other")
    browser.write("Bárður")
    browser.key("Enter")
    assert place(browser) == "Pair 1 of 25"
    for _ in range(25):
        browser.key("2")
    browser.click("#download")
    until(lambda: len(list(browser.downloads.glob("*.csv"))) == 2)
    assert "50 judgements added" in ran("ratings", *sorted(browser.downloads.glob("*.csv")), "--lake", judged_lake.root)
    agreed = judged_lake.sql("SELECT * FROM rater_agreement").to_pylist()[0]
    assert (agreed["raters"], agreed["shared_items"], agreed["equal"], agreed["self_equal"]) == (2, 22, 0.0, 0.0)
    assert agreed["first_preferred"] == 0.5 and agreed["alpha"] < 0


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.look(width, 800, "dark")
    begin(browser, page, "Anna")
    for _ in range(25):
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask("document.getElementById('verdicts').getBoundingClientRect().bottom") <= 800
        browser.key("0")
    dark = browser.ask("getComputedStyle(document.documentElement).backgroundColor")
    browser.look(width, 800, "light")
    assert browser.ask("getComputedStyle(document.documentElement).backgroundColor") != dark


def test_a_browser_that_keeps_nothing_says_so_and_gives_the_table_all_the_same(browser: Browser, page: Path) -> None:
    full = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"
    browser.send("Page.addScriptToEvaluateOnNewDocument", source=full)
    begin(browser, page, "Anna")
    assert browser.ask("document.getElementById('unkept').checkVisibility()")
    for _ in range(25):
        browser.key("2")
    browser.click("#download")
    until(lambda: list(browser.downloads.glob("*.csv")))
    (table,) = browser.downloads.glob("*.csv")
    assert len(table.read_text(encoding="utf-8").splitlines()) == 26
