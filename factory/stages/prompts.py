"""Prompts of the recipe's source, without duplicates, split into train and held out.

Reads a file or a hub data set. Writes `prompts` (and, where the recipe translates them for its teacher, the same with
`teacher_messages` in its language), sharded by the order of the source, so that appended prompts keep the old
shards. Refuses an empty source, a column that is not there and a prompt without text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.contract import PROMPTS
from data.keys import digest, nfc, prompt_id
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import prompts_settings
from data.refusal import Refusal
from data.writers import translated_prompts
from factory.config import FactoryRecipe
from factory.context import Context, Work
from factory.sources import Rows, mapped, messages_of
from factory.spool import Spool

SPLITS = ("train", "held_out")
KNOWN = tuple(c.name for c in PROMPTS.columns if c.name not in ("prompt_id", "extra"))
ALIASES = ("prompt", "question", "instruction")  # columns that are the messages where nothing is mapped to them


def run(context: Context) -> Slice:
    """Publish the recipe's prompts."""
    with Spool(context.lake.root) as spool:
        made, duplicates = _published(context, spool)
    made = _newest(context, made, translated=False)
    if duplicates:
        context.remark(made, f"{duplicates:,} rows ask what an earlier row asks; the first stays")
    if translated_prompts(context.recipe) is None:
        return made
    from factory.stages.translate import prompts_translated

    return _newest(context, prompts_translated(context, made), translated=True)


def _published(context: Context, spool: Spool) -> tuple[Slice, int]:
    """The slice, and how many duplicates were left out."""
    recipe, size, count = context.recipe, context.settings.shard_groups, 0
    notes = {"duplicates": 0, "held_out": 0}
    for prompt, first in read_prompts(recipe):
        if not first:
            notes["duplicates"] += 1
            continue
        spool.add(count // size, prompt)
        notes["held_out"] += prompt["split"] == "held_out"
        count += 1
    contents = tuple(digest(list(spool.read(shard))) for shard in range(math.ceil(count / size)))

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = list(spool.read(shard.index))
        work.done(len(rows))
        return pa.Table.from_pylist(rows, schema=PROMPTS.schema)

    label, key = Path(recipe.prompts.path).stem or "prompts", Key(prompts_settings(recipe), contents=contents)
    made = context.make("prompts", "prompts", key, label, compute, total=count, unit="prompts", notes=notes)
    return made, notes["duplicates"]


def _newest(context: Context, made: Slice, *, translated: bool) -> Slice:
    """The slice as the one that is found: a source may have been changed, and changed back."""
    there = context.lake.slices("prompts", **prompts_settings(context.recipe))
    alike = [s for s in there if ("translated" in s.settings) == translated]
    return made if not alike or made == alike[-1] else context.lake.renew(made)


def read_prompts(recipe: FactoryRecipe) -> Iterator[tuple[dict[str, Any], bool]]:
    """A row of `prompts` for each row of the source, and whether it is the first of its prompt; up to the limit."""
    source, seen = recipe.prompts, set[int]()
    raw = Rows(source, "prompts")
    columns = message_columns(raw.names, source.columns, KNOWN, "prompts")
    used = set(columns.values()) | _imported(recipe)
    for number, row in enumerate(raw, 1):
        prompt = _prompt(row, columns, used, recipe, f"prompts: {source.path} row {number}")
        first = prompt["prompt_id"] not in seen
        seen.add(prompt["prompt_id"])
        yield prompt, first
        if len(seen) == source.limit:
            return


def message_columns(
    there: Sequence[str], columns: Mapping[str, str], known: Sequence[str], what: str
) -> dict[str, str]:
    """The mapping of `mapped`, where `messages` may stand under a usual name. Refuses a source without it."""
    found = mapped(there, columns, known, what)
    if "messages" not in found:
        alias = next((name for name in ALIASES if name in there), None)
        if alias is None:
            raise Refusal(
                f"{what}: no column holds the messages; there are: {', '.join(there)}",
                f"{what}.columns={{messages: {there[0]}}}",
            )
        found["messages"] = alias
    return found


def _imported(recipe: FactoryRecipe) -> set[str]:
    """Columns that the recipe's imports read from the same file: completions do not belong to the prompt."""
    from factory.stages.imports import COLUMNS

    same = [s for s in recipe.factory.imports.values() if s.path == recipe.prompts.path]
    return {column for s in same for column in (*COLUMNS, *s.columns.values(), *s.rewards)}


def _prompt(
    row: Mapping[str, Any], columns: Mapping[str, str], used: set[str], recipe: FactoryRecipe, where: str
) -> dict[str, Any]:
    messages = messages_of(row.get(columns["messages"]), f"{where}: messages", recipe.prompts.system)
    shown = row.get(columns["teacher_messages"]) if "teacher_messages" in columns else None
    extra = {k: v for k, v in row.items() if k not in used and v is not None}
    id_ = prompt_id(messages)
    values: dict[str, Any] = {
        "prompt_id": id_,
        "messages": messages,
        "teacher_messages": None if shown is None else messages_of(shown, f"{where}: teacher_messages"),
        "references": _texts(row.get(columns.get("references", ""))),
        "extra": json.dumps(extra, ensure_ascii=False, sort_keys=True, default=str) if extra else None,
    }
    plain = {
        n: row.get(columns[n]) for n in ("answer_pattern", "language", "topic", "source", "licence") if n in columns
    }
    values |= {n: None if v is None else str(v) for n, v in plain.items()}
    values["split"] = split_of(row.get(columns.get("split", "")), share_of(recipe.prompts.held_out), id_, where)
    return values


def _texts(value: Any) -> list[str] | None:
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    return [nfc(str(v)) for v in values if v is not None]


def share_of(held_out: str | None) -> float | None:
    """The recipe's share of held-out prompts as a number between 0 and 1."""
    if held_out is None:
        return None
    try:
        share = float(held_out)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise Refusal(f"prompts.held_out={held_out} is no share from 0 to below 1", "prompts.held_out=0.1")
    return share


def split_of(given: Any, share: float | None, id_: int, where: str) -> str:
    """train or held_out: by the source's column, or by the id's place in a share of all ids."""
    if share is not None:
        return "held_out" if id_ < share * 2**64 else "train"
    if given is None:
        return "train"
    if given not in SPLITS:
        raise Refusal(f"{where}: split is {given!r}, which is neither train nor held_out", "correct the column `split`")
    return str(given)
