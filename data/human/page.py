"""The page for raters: one HTML file that asks no network, holds no policy's name and keeps its state in the browser.

Reads page.html, page.css and page.js beside it. Answers are escaped by jinja2 (autoescape) and stand in the document, never in a
script; a content security policy allows this page's own script and style by their sha256 and nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from data.human.pairs import Pair, Plan, asked, chance_of, conversations, draw, page_id, read_answers, record
from data.human.words import WORDS
from data.lake import Lake
from data.refusal import Refusal, nearest

HERE = Path(__file__).parent
VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
"""Control characters → their pictures: HTML has no way to hold some of them, and a rater should see that they are there."""


def make(lake: Lake, policies: Sequence[str], plan: Plan, label: str | None = None) -> tuple[str, str, list[Pair]]:
    """(page's id, HTML, its pairs). Records the page in the lake. Refuses a language without words."""
    if plan.language not in WORDS:
        raise Refusal(f"no words in {plan.language!r}: {nearest(plan.language, WORDS)}", "python -m data pairs --help")
    answers = read_answers(lake, policies, plan.benchmark, label)
    pairs = draw(plan, answers, chance_of(plan, answers))
    page = page_id(plan, pairs)
    html = render(page, plan, pairs, conversations(lake, [pair.item for pair in pairs]))
    record(lake, page, plan, pairs)
    return page, html, pairs


def render(page: str, plan: Plan, pairs: Sequence[Pair], messages: dict[str, list[dict[str, str]]]) -> str:
    """The page's HTML. An item without messages is shown without its question."""
    import jinja2

    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    shown = [
        {
            "messages": [(m["role"], visible(m["content"])) for m in messages.get(pair.item, [])],
            "texts": [visible(text) for text in pair.texts],
        }
        for pair in pairs
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        page=page, question=asked(plan), language=plan.language, words=WORDS[plan.language], pairs=shown,
        style=style, script=script, style_hash=sha256_source(style), script_hash=sha256_source(script),
    )  # fmt: skip


def visible(text: str) -> str:
    """A text whose control characters can be seen; line breaks and tabs stay.

    >>> visible("a\\x00b\\r\\nc")
    'a␀b\\nc'
    """
    return text.replace("\r\n", "\n").translate(VISIBLE)


def sha256_source(text: str) -> str:
    """What a content security policy calls a script or style of this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
