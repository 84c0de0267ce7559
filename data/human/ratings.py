"""Reads the tables that raters send back into the journal `ratings`: one file there for each page and rater.

Reads CSV and the journals `pairs` and `ratings`. Nothing is written unless every row of every file is right. Refuses rows of a
page that this lake did not make, rows that were changed since they were downloaded (by their CRC-32, which finds slips and
spreadsheets, not forgers), pairs that the page does not have, and a second verdict of one rater on one pair. The same file twice
adds nothing."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.contract import TABLES
from data.keys import digest, nfc
from data.lake import Lake
from data.refusal import Refusal

COLUMNS = ("page", "pair", "verdict", "rater", "judged_at", "check")
VERDICTS = ("first", "second", "tie")
SHOWN_FAULTS = 5
Key = tuple[str, int, str]  # page, pair, rater


class Fault(Exception):
    """What is wrong with one row, and what to do."""


@dataclass
class Added:
    """What the files brought: judgements that are new, that changed, and that were there."""

    new: int = 0
    changed: int = 0
    known: int = 0


def read_ratings(lake: Lake, files: Sequence[Path], *, replace: bool = False) -> Added:
    """Read files of raters into `ratings`. `replace`: a rater's later verdict on a pair takes the place of the earlier one."""
    pages = _pages(lake)
    before = _known(lake)
    held, added, faults = dict(before), Added(), list[tuple[str, str]]()
    for file in files:
        seen: dict[Key, int] = {}
        for line, cells in _rows(file):
            try:
                row = _checked(cells, pages)
                key = row["page"], row["pair"], row["rater"]
                if key in seen:
                    raise Fault(
                        f"{row['rater']} judged pair {row['pair']} in line {seen[key]} already",
                        "take out one of the lines",
                    )
                seen[key] = line
                _merge(held, key, row, replace, added)
            except Fault as fault:
                faults.append((f"{file} line {line}: {fault.args[0]}", fault.args[1]))
    if faults:
        more = "; …" if len(faults) > SHOWN_FAULTS else ""
        listed = "; ".join(what for what, _ in faults[:SHOWN_FAULTS]) + more
        raise Refusal(f"{len(faults)} rows are refused and none is added: {listed}", faults[0][1])
    _write(lake, held, before)
    return added


def _merge(held: dict[Key, dict[str, Any]], key: Key, row: dict[str, Any], replace: bool, added: Added) -> None:
    old = held.get(key)
    if old is None:
        added.new += 1
    elif old["verdict"] == row["verdict"] or (replace and row["created_at"] <= old["created_at"]):
        added.known += 1
        return
    elif replace:
        added.changed += 1
    else:
        raise Fault(
            f"{row['rater']} judged pair {row['pair']} otherwise before", "--replace, to count the later verdict"
        )
    held[key] = row


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a rater's table. Refuses what is no such table."""
    try:
        reader = csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            shown = ",".join(header)[:60]
            raise Refusal(
                f"{file} line 1: {shown!r} is not the header of a page's table", "download the CSV from the page again"
            )
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror}", "python -m data ratings FILE.csv") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"{file} is no CSV in UTF-8: {error}", "download the CSV from the page again") from error


def _checked(cells: list[str], pages: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """A row of `ratings`. Raises Fault."""
    again = "download the CSV from the page again"
    if len(cells) != len(COLUMNS):
        raise Fault(f"{len(cells)} fields, not {len(COLUMNS)}", again)
    page, number, verdict, rater, time, check = cells
    if page not in pages:
        raise Fault(f"page {page[:20]!r} was not made from this lake", "--lake, with the lake that made the page")
    if check != crc(cells[:-1]):
        raise Fault("changed since it was downloaded: its check does not fit", again)
    pair = pages[page].get(number)
    if pair is None:
        raise Fault(f"the page has no pair {number[:20]!r}, only 1 to {len(pages[page])}", again)
    if verdict not in VERDICTS:
        raise Fault(f"verdict {verdict[:20]!r} is none of {', '.join(VERDICTS)}", again)
    if not (name := nfc(rater).strip()):
        raise Fault("no rater's name", again)
    policies = sorted((pair["first"], pair["second"]))
    side = verdict if verdict == "tie" else "ab"[policies.index(pair[verdict])]
    return {
        "benchmark": pair["benchmark"], "item": pair["item"], "policy_a": policies[0], "policy_b": policies[1],
        "verdict": side, "rater": name, "page": page, "pair": pair["pair"], "created_at": _time(time, again),
    }  # fmt: skip


def crc(cells: Sequence[str]) -> str:
    """CRC-32 of a row's cells, a line each, as the page works it out.

    >>> crc(["123456789"])
    'cbf43926'
    """
    return f"{zlib.crc32(chr(10).join(cells).encode()):08x}"


def _time(text: str, again: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Fault(f"{text[:40]!r} is no time", again) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _pages(lake: Lake) -> dict[str, dict[str, dict[str, Any]]]:
    """page → number, as its CSV writes it → row of `pairs`."""
    pages: dict[str, dict[str, dict[str, Any]]] = {}
    for row in lake.sql('SELECT page, pair, benchmark, item, "first", "second" FROM pairs').to_pylist():
        pages.setdefault(row["page"], {})[str(row["pair"])] = row
    return pages


def _known(lake: Lake) -> dict[Key, dict[str, Any]]:
    names = TABLES["ratings"].schema.names
    rows = lake.sql(f"SELECT {', '.join(names)} FROM ratings WHERE page IS NOT NULL").to_pylist()
    return {(row["page"], row["pair"], row["rater"]): row for row in rows}


def _write(lake: Lake, held: dict[Key, dict[str, Any]], before: dict[Key, dict[str, Any]]) -> None:
    """Write the files of those pages and raters of whom something is new."""
    touched = {(page, rater) for (page, pair, rater), row in held.items() if before.get((page, pair, rater)) != row}
    for page, rater in sorted(touched):
        rows = sorted((r for (p, _, who), r in held.items() if (p, who) == (page, rater)), key=lambda row: row["pair"])
        lake.append(
            "ratings", pa.Table.from_pylist(rows, schema=TABLES["ratings"].schema), f"{page}-{digest(rater)[:12]}"
        )
