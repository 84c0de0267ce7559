"""The page as a file: whole, small, and text in it stays text."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data import Lake, Slice
from data.demo.run import _report
from data.human.page import visible
from data.keys import id64, prompt_id
from data.report.page import SECTIONS, build
from data.report.source import Source

SCRIPT = "<script>window.ran = 1</script>"


class Read(HTMLParser):
    """Tags, attributes and texts of a page, as a browser would take them."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_lake_with_everything_has_every_section(hostile: Source, lake: Lake, tmp_path: Path) -> None:
    assert set(SECTIONS) - set(Read(build(Source(lake, tmp_path))).ids) == {"ablations"}  # one run alone
    assert set(SECTIONS) <= set(Read(build(hostile)).ids)


def test_the_demo_ends_with_the_page_and_names_it(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo.html"
    _report(str(lake.root), str(tmp_path), str(out))
    assert capsys.readouterr().out.strip() == f"report: {out}" and set(Read(out.read_text("utf-8")).ids) > {"pool"}


def test_an_empty_lake_gets_a_sentence_a_section(empty_lake: Lake, tmp_path: Path) -> None:
    page = Read(build(Source(empty_lake, tmp_path)))
    assert not set(SECTIONS) & set(page.ids)
    said = [text for text in page.texts if text.startswith(tuple(f"{title}: " for title, _ in SECTIONS.values()))]
    assert len(said) == len(SECTIONS) and all(text.count(".") == 1 and text.endswith(".") for text in said)


def test_a_lake_on_object_storage_is_told_the_same(
    s3: str, make_lake: Callable[[Lake], Lake], lake: Lake, tmp_path: Path
) -> None:
    pages = [Read(build(Source(where, tmp_path, "demo"))) for where in (make_lake(Lake.open(s3)), lake)]
    assert pages[0].ids == pages[1].ids and pages[0].tags == pages[1].tags


def test_what_models_and_users_wrote_stays_text(hostile: Source) -> None:
    page = Read(build(hostile))
    assert (page.tags.count("script"), page.tags.count("style"), page.tags.count("img"), page.tags.count("b")) == (
        1,
        1,
        0,
        24,
    )
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "style")]
    assert [value for name, value in page.attributes if name == "href" and not (value or "").startswith("#")] == []
    whole = "".join(page.texts)
    assert visible("\x00\x1b[31m") in whole and "{{ 7 * 7 }}" in whole and whole.count(SCRIPT) > 10
    assert len(page.ids) == len(set(page.ids))


def test_a_pool_of_thousands_of_long_samples_is_under_5_mb(tmp_path: Path, publish: Callable[..., Slice]) -> None:
    lake = Lake.open(tmp_path / "lake")
    n, size = 4000, 8
    ids = [prompt_id([{"role": "user", "content": f"nr. {i}"}]) for i in range(n // size)]
    long = "<&'\"ð>" * 1000
    keys: dict[str, list[Any]] = {"group_id": [id64(i) for i in ids for _ in range(size)]}
    keys["sample_index"] = [*range(size)] * len(ids)
    messages = [[{"role": "user", "content": f"{i} {long}"}] for i in range(len(ids))]
    asked = {"prompt_id": ids, "messages": messages, "split": ["train"] * len(ids)}
    prompts = publish(lake, "prompts", [asked], label="p")
    groups = {"group_id": [id64(i) for i in ids], "prompt_id": ids, "policy": ["m"] * len(ids)}
    shown = {"prompt_token_ids": [[1]] * len(ids)}
    drawn = publish(lake, "groups", [groups | shown], label="p", parents=(prompts,))
    rows = {"token_ids": [[1, 2]] * n, "n_tokens": [2] * n, "text": [f"{i} {long}" for i in range(n)]}
    samples = publish(lake, "samples", [keys | rows | {"origin": ["student"] * n}], label="p", parents=(drawn,))
    values = {"value": [float(i % 97) for i in range(n)], "valid": [True] * n}
    for label in ("a", "b"):
        publish(lake, "rewards", [keys | values], label=label, parents=(samples,))
    html = build(Source(lake, tmp_path))
    assert html.count("<article") == 100 and len(html.encode()) < 5_000_000
    assert Read(html).tags.count("article") == 100
