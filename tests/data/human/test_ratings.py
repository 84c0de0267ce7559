"""Tables of raters, read back: what is right is added once; what is wrong is refused by file and line, and nothing is added."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data import Lake

sys.path.append(str(Path(__file__).parent))

from judged import ALPHA, BETA

from data.human.ratings import COLUMNS, crc

Ran = Callable[..., str]
TIME = "2026-05-01T10:00:00.000Z"


@pytest.fixture
def page(judged_lake: Lake, ran: Ran, tmp_path: Path) -> str:
    """A page of 5 pairs, one of them shown again."""
    where = ("--lake", judged_lake.root, "--out", tmp_path / "page.html")
    return ran("pairs", ALPHA, BETA, "--benchmark", "talk", "--n", 5, *where).split("page ")[1].split(":")[0]


def row(page: str, pair: object, verdict: str, rater: str = "Anna", time: str = TIME) -> list[str]:
    """A row as the page writes it."""
    cells = [page, str(pair), verdict, rater, time]
    return [*cells, crc(cells)]


def table(path: Path, *rows: list[str], header: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_verdict_on_a_side_becomes_one_on_a_policy(judged_lake: Lake, ran: Ran, page: str, tmp_path: Path) -> None:
    rows = [row(page, n, "tie" if n == 6 else "first") for n in range(1, 7)]
    ran("ratings", table(tmp_path / "a.csv", *rows), "--lake", judged_lake.root)
    got = judged_lake.sql("SELECT * FROM ratings ORDER BY pair").to_pylist()
    shown = judged_lake.sql("SELECT * FROM pairs ORDER BY pair").to_pylist()
    for rating, pair, cells in zip(got, shown, rows, strict=True):
        assert (rating["policy_a"], rating["policy_b"]) == (ALPHA, BETA)
        assert (rating["item"], rating["benchmark"], rating["rater"]) == (pair["item"], "talk", "Anna")
        preferred = {"a": ALPHA, "b": BETA, "tie": None}[rating["verdict"]]
        assert preferred == (None if cells[2] == "tie" else pair[cells[2]])
        assert rating["created_at"].isoformat().startswith("2026-05-01T10:00:00")
    assert len(got) == 6 and {r["verdict"] for r in got} == {"a", "b", "tie"}


def test_the_same_table_adds_nothing_and_another_rater_adds_his_own(
    judged_lake: Lake, ran: Ran, page: str, tmp_path: Path
) -> None:
    lake = ("--lake", judged_lake.root)
    half = table(tmp_path / "half.csv", row(page, 1, "first"))
    whole = table(tmp_path / "whole.csv", row(page, 1, "first"), row(page, 2, "tie"))
    assert "1 judgements added, 0 changed, 0 known" in ran("ratings", half, *lake)
    files = {path: path.read_bytes() for path in judged_lake.journal("ratings")}
    assert "0 judgements added, 0 changed, 1 known" in ran("ratings", half, *lake)
    assert {path: path.read_bytes() for path in judged_lake.journal("ratings")} == files
    assert "1 judgements added, 0 changed, 2 known" in ran("ratings", whole, half, *lake)
    other = table(tmp_path / "other.csv", row(page, 1, "second", "Bárður"), row(page, 2, "tie", "Bárður"))
    assert "2 judgements added" in ran("ratings", other, *lake)
    assert judged_lake.sql("SELECT count(*) AS n, count(DISTINCT rater) AS r FROM ratings").to_pylist() == [
        {"n": 4, "r": 2}
    ]
    assert len(judged_lake.journal("ratings")) == 2
    assert "no faults" in ran("verify", *lake)


def test_a_changed_mind_is_counted_where_it_is_asked_for_and_later(
    judged_lake: Lake, ran: Ran, page: str, tmp_path: Path
) -> None:
    lake = ("--lake", judged_lake.root)
    before = table(tmp_path / "before.csv", row(page, 1, "first"))
    after = table(tmp_path / "after.csv", row(page, 1, "tie", time="2026-05-02T10:00:00.000Z"), row(page, 2, "tie"))
    ran("ratings", before, *lake)
    refused = ran("ratings", after, *lake, refused=True)
    assert "after.csv line 2: Anna judged pair 1 otherwise before" in refused and "next: --replace" in refused
    assert judged_lake.sql("SELECT count(*) AS n FROM ratings").to_pylist() == [{"n": 1}]
    assert "1 judgements added, 1 changed, 0 known" in ran("ratings", after, "--replace", *lake)
    assert "0 judgements added, 0 changed, 1 known" in ran("ratings", before, "--replace", *lake)
    assert judged_lake.sql("SELECT verdict FROM ratings WHERE pair = 1").to_pylist() == [{"verdict": "tie"}]


def edited(cells: list[str], place: int, text: str) -> list[str]:
    return [*cells[:place], text, *cells[place + 1 :]]


WRONG = {
    "an edited verdict": (lambda p: edited(row(p, 2, "tie"), 2, "first"), "its check does not fit"),
    "a spreadsheet's time": (lambda p: edited(row(p, 2, "tie"), 4, "01/05/2026 10:00"), "its check does not fit"),
    "another rater's name": (lambda p: edited(row(p, 2, "tie"), 3, "Eva"), "its check does not fit"),
    "a foreign page": (lambda p: row("0123456789ab", 2, "tie"), "page '0123456789ab' was not made from this lake"),
    "no such pair": (lambda p: row(p, 7, "tie"), "the page has no pair '7', only 1 to 6"),
    "no number": (lambda p: row(p, "²", "tie"), "the page has no pair '²'"),
    "a number of 5,000 digits": (lambda p: row(p, "1" * 5000, "tie"), "the page has no pair '111"),
    "a padded number": (lambda p: row(p, "02", "tie"), "the page has no pair '02'"),
    "no such verdict": (lambda p: row(p, 2, "both"), "verdict 'both' is none of first, second, tie"),
    "nobody": (lambda p: row(p, 2, "tie", "  "), "no rater's name"),
    "no time": (lambda p: row(p, 2, "tie", time="now"), "'now' is no time"),
    "a field too few": (lambda p: row(p, 2, "tie")[:-1], "5 fields, not 6"),
    "a pair twice": (lambda p: row(p, 1, "first"), "Anna judged pair 1 in line 2 already"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_refused_by_file_and_line_and_nothing_is_added(
    judged_lake: Lake, ran: Ran, page: str, tmp_path: Path, name: str
) -> None:
    make, said = WRONG[name]
    file = table(tmp_path / "anna.csv", row(page, 1, "first"), make(page), row(page, 3, "tie"))
    refused = ran("ratings", file, "--lake", judged_lake.root, refused=True)
    assert f"1 rows are refused and none is added: {file} line 3: " in refused and said in refused
    assert judged_lake.journal("ratings") == []


def test_every_wrong_row_is_told_and_each_line_is_its_own(
    judged_lake: Lake, ran: Ran, page: str, tmp_path: Path
) -> None:
    rows = [row(page, 1, "tie", "Anna\u2028B"), *(edited(row(page, n, "tie"), 2, "first") for n in (2, 3))]
    refused = ran("ratings", table(tmp_path / "a.csv", *rows), "--lake", judged_lake.root, refused=True)
    assert "2 rows are refused" in refused and "a.csv line 3" in refused and "a.csv line 4" in refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "'' is not the header of a page's table"),
        (b"item,verdict\r\n1,a\r\n", "'item,verdict' is not the header"),
        (",".join(COLUMNS).replace(",", ";").encode(), "is not the header"),
        (b"\xff\xfe\x00", "is no CSV in UTF-8"),
        (",".join(COLUMNS).encode() + b'\r\n"a\r\n', "is no CSV in UTF-8"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_table_of_a_page_is_refused(
    judged_lake: Lake, ran: Ran, page: str, tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "x.csv"
    if content is not None:
        file.write_bytes(content)
    assert said in ran("ratings", file, "--lake", judged_lake.root, refused=True)


def test_a_table_that_an_editor_has_saved_with_its_own_line_ends_is_read(
    judged_lake: Lake, ran: Ran, page: str, tmp_path: Path
) -> None:
    file = table(tmp_path / "a.csv", row(page, 1, "first", 'Jógvan, "J"'))
    file.write_text("\ufeff" + file.read_text(encoding="utf-8").replace("\r\n", "\n") + "\n", encoding="utf-8")
    assert "1 judgements added" in ran("ratings", file, "--lake", judged_lake.root)
    assert judged_lake.sql("SELECT rater FROM ratings").to_pylist() == [{"rater": 'Jógvan, "J"'}]


def test_the_query_that_the_documentation_shows_is_answered(
    judged_lake: Lake, ran: Ran, page: str, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (query,) = re.findall(r'^    python -m data sql "(SELECT .* FROM win_rates .*)"$', text, re.M)
    ran("ratings", table(tmp_path / "a.csv", row(page, 1, "first"), row(page, 2, "tie")), "--lake", judged_lake.root)
    assert ALPHA in ran("sql", query.replace("held_out", "talk"), "--lake", judged_lake.root)


def test_pairs_are_made_and_judged_on_a_lake_on_object_storage(
    judged_lake: Lake, ran: Ran, s3: str, tmp_path: Path
) -> None:
    ran("push", s3, "--lake", judged_lake.root)
    where = ("--lake", s3, "--out", tmp_path / "page.html")
    page = ran("pairs", ALPHA, BETA, "--benchmark", "talk", "--n", 5, *where).split("page ")[1].split(":")[0]
    file = table(tmp_path / "a.csv", *(row(page, n, "first") for n in range(1, 7)))
    assert "6 judgements added" in ran("ratings", file, "--lake", s3)
    assert "0 judgements added, 0 changed, 6 known" in ran("ratings", file, "--lake", s3)
    ran("pull", s3, "--lake", judged_lake.root)
    local, remote = (lake.sql("SELECT * FROM win_rates ORDER BY ALL") for lake in (judged_lake, Lake.open(s3)))
    assert local.equals(remote) and local.num_rows == 2
