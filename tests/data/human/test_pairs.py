"""Which pairs a page holds, and that the same question makes the same page."""

from __future__ import annotations

import random
import re
import string
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import Lake, Slice

sys.path.append(str(Path(__file__).parent))

from judged import ALPHA, BETA, GAMMA, answer, evaluated

from data.human.page import render
from data.human.pairs import Answers, Pair, Plan, draw, page_id, with_repeats
from data.human.words import WORDS

Ran = Callable[..., str]
ONE, TWO = (Answers(name, "m", "s", {str(i): f"{name} {i}" for i in range(200)}) for name in "xy")


@pytest.fixture
def made(judged_lake: Lake, ran: Ran, tmp_path: Path) -> Callable[..., str]:
    """`made(*policies, options)`: the page's HTML."""

    def make(*words: object) -> str:
        out = tmp_path / "page.html"
        ran("pairs", *words, "--benchmark", "talk", "--lake", judged_lake.root, "--out", out)
        return out.read_text(encoding="utf-8")

    return make


def test_the_same_question_is_the_same_page_whoever_is_named_first(made: Callable[..., str], judged_lake: Lake) -> None:
    one = made(ALPHA, BETA)
    before = {path: path.read_bytes() for path in judged_lake.journal("pairs")}
    assert made(BETA, f"run:{ALPHA}") == one
    assert {path: path.read_bytes() for path in judged_lake.journal("pairs")} == before and len(before) == 1
    others = [
        made(ALPHA, BETA, *words) for words in (("--seed", 1), ("--n", 5), ("--question", "?"), ("--language", "fo"))
    ]
    assert len({one, *others}) == 5 and len(judged_lake.journal("pairs")) == 5


def test_the_newest_answers_are_shown_with_their_questions(made: Callable[..., str], judged_lake: Lake) -> None:
    html = made(ALPHA, BETA)
    assert "gamalt" not in html and "javnt" not in html and "Hvat er nummar 3? &lt;b&gt;" in html
    slices = judged_lake.sql('SELECT DISTINCT first_slice FROM pairs WHERE "first" = $p', p=ALPHA)[
        "first_slice"
    ].to_pylist()
    shown = judged_lake.sql("SELECT prediction FROM evaluations WHERE slice = $s", s=slices[0])[
        "prediction"
    ].to_pylist()
    assert len(slices) == 1 and "gamalt" not in shown


def test_each_two_of_three_policies_meet_on_the_same_items(made: Callable[..., str], judged_lake: Lake) -> None:
    made(ALPHA, BETA, GAMMA, "--n", 6, "--repeats", 0)
    rows = judged_lake.sql('SELECT least("first", "second") AS a, greatest("first", "second") AS b, item FROM pairs')
    met: dict[tuple[str, str], set[str]] = {}
    for row in rows.to_pylist():
        met.setdefault((row["a"], row["b"]), set()).add(row["item"])
    assert set(met) == {(ALPHA, BETA), (ALPHA, GAMMA), (BETA, GAMMA)}
    assert all(items == met[ALPHA, BETA] and len(items) == 6 for items in met.values())


@given(st.integers(1, 90), st.integers(0, 50), st.integers(0, 2**32))
def test_repeats_are_a_share_shown_late_with_their_sides_changed(n: int, percent: int, seed: int) -> None:
    base = [Pair(str(i), ONE, TWO, n, 0) for i in range(n)]
    page = with_repeats(list(base), percent / 100, random.Random(seed))
    repeated = [(i, pair) for i, pair in enumerate(page) if pair.repeats is not None]
    assert len(repeated) == min(-(-percent * n // 100), n // 2)
    assert Counter(pair.item for pair in page if pair.repeats is None) == Counter(pair.item for pair in base)
    for place, pair in repeated:
        original = page[pair.repeats - 1]
        assert (original.item, original.first, original.second) == (pair.item, pair.second, pair.first)
        assert place - (pair.repeats - 1) >= max(n // 6, 1) and original.repeats is None


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_each_policy_stands_first_in_half_of_the_pairs(n: int, seed: int) -> None:
    pairs = draw(Plan("b", n=n, seed=seed, repeats=0), [ONE, TWO], random.Random(seed))
    assert len(pairs) == n and abs(sum(1 if pair.first is ONE else -1 for pair in pairs)) <= 1
    assert len({pair.item for pair in pairs}) == n


def test_pages_that_show_something_else_are_other_pages() -> None:
    plan = Plan("b", n=9, repeats=0)
    pairs = draw(plan, [ONE, TWO], random.Random(0))
    turned = [Pair(p.item, p.second, p.first, p.items, p.identical) for p in pairs]
    assert len({page_id(plan, shown) for shown in (pairs, pairs[::-1], turned, pairs[:8])}) == 4


def test_more_pairs_keep_those_that_were_drawn() -> None:
    few, many = (draw(Plan("b", n=n, repeats=0), [ONE, TWO], random.Random(n)) for n in (10, 40))
    assert {pair.item for pair in few} < {pair.item for pair in many}


def test_a_question_is_text_and_an_item_that_is_no_prompt_is_shown_without_one() -> None:
    page = render("0a", Plan("b", "<i>Hvørt?", "fo"), [Pair("1", ONE, TWO, 1, 0)], {})
    assert page.count("&lt;i&gt;Hvørt?") == 2 and "<i>" not in page
    assert 'class="message"' not in page and "Líka góð" in page and '<html lang="fo"' in page


def test_every_language_has_every_word() -> None:
    fields = {key: set(re.findall(r"{\w+}", text)) for key, text in WORDS["en"].items()}
    for words in WORDS.values():
        assert {key: set(re.findall(r"{\w+}", text)) for key, text in words.items()} == fields
        assert all(text.strip(string.whitespace) for text in words.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((ALPHA, "canary-bta"), f"did you mean '{BETA}'?"),
        ((ALPHA, ALPHA), "two different policies"),
        ((ALPHA,), "two different policies"),
        ((ALPHA, BETA, "--label", "another"), "labelled another"),
        ((ALPHA, BETA, "--language", "foo"), "did you mean 'fo'?"),
        ((ALPHA, BETA, "--n", 0), "greater than or equal to 1"),
        ((ALPHA, BETA, "--out", "/nowhere/page.html"), "cannot be written"),
    ],
)
def test_what_cannot_be_asked_is_refused(judged_lake: Lake, ran: Ran, words: tuple[object, ...], said: str) -> None:
    assert said in ran("pairs", *words, "--benchmark", "talk", "--lake", judged_lake.root, refused=True)


def test_policies_of_one_name_in_two_recipes_are_never_mixed(
    judged_lake: Lake, ran: Ran, publish: Callable[..., Slice], made: Callable[..., str]
) -> None:
    def evaluate(policy: str, label: str, texts: list[str | None]) -> None:
        publish(
            judged_lake, "evaluations", [evaluated(policy, "talk", texts)], label=label, content=f"{label} {policy}"
        )

    one, command = made(ALPHA, BETA), ("pairs", ALPHA, BETA, "--benchmark", "talk", "--lake", judged_lake.root)
    evaluate(BETA, "later", ["nýtt"] * 24)
    assert made(ALPHA, BETA) == one, "the later recipe lacks alpha"
    evaluate(ALPHA, "copied", [answer(ALPHA, i) for i in range(24)])
    evaluate(BETA, "copied", [answer(BETA, i) for i in range(24)])
    assert made(ALPHA, BETA) == one, "the same answers"
    evaluate(ALPHA, "later", ["gott"] * 24)
    said = ran(*command, refused=True)
    assert (
        "recipes copied and later and r have other answers" in said and "--label later" in said and "r|copied" in said
    )
    assert "nýtt" in made(ALPHA, BETA, "--label", "later") and "nýtt" not in made(ALPHA, BETA, "--label", "r")


def test_benchmarks_without_two_answers_that_differ_are_refused(
    judged_lake: Lake, ran: Ran, publish: Callable[..., Slice]
) -> None:
    lake = ("--lake", judged_lake.root)
    assert "did you mean 'talk'?" in ran("pairs", ALPHA, BETA, "--benchmark", "talks", *lake, refused=True)
    assert f"{ALPHA} gave no answers" in ran("pairs", ALPHA, BETA, "--benchmark", "fit", *lake, refused=True)
    for policy in (ALPHA, BETA):
        texts = ["e\u0301", "b "] if policy == ALPHA else ["é", "b"]  # one text for whoever reads them
        publish(judged_lake, "evaluations", [evaluated(policy, "same", texts)], label="r", content=f"same {policy}")
    assert "differ on no item" in ran("pairs", ALPHA, BETA, "--benchmark", "same", *lake, refused=True)
    assert f"{GAMMA} was not evaluated on same" in ran(
        "pairs", ALPHA, GAMMA, "--benchmark", "same", *lake, refused=True
    )
    assert judged_lake.journal("pairs") == []
