"""Rows of an import under the prompts they belong to: one completion each, with what the source knows of it.

Reads the source once, in its own order, and puts the completions aside by shard (spool.py): one shard is in memory at a time,
beside a number for each prompt."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.keys import nfc, prompt_id
from data.manifest import Slice
from data.refusal import Refusal
from factory.config import ImportSource
from factory.context import Context
from factory.sources import Rows, messages_of
from factory.spool import Spool
from factory.stages.samples import MOST

COLUMNS = ("messages", "completion", "token_ids", "logprobs", "finish_reason")
TEXTS = ("completion", "completions", "response", "responses", "answer", "answers")  # where no mapping names the text


@dataclass(frozen=True)
class Imported:
    """One completion. `where` names its row in refusals."""

    where: str
    text: str
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    finish_reason: str | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)


@dataclass
class Completions:
    """The completions that are imported, by shard of the prompts."""

    context: Context
    prompts: Slice
    spool: Spool
    per_prompt: Counter[int] = field(default_factory=Counter)
    """prompt_id → how many are imported."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.per_prompt.total()

    def shards(self) -> Iterator[dict[int, list[Imported]]]:
        """`shard` of every shard, in order."""
        return (self.shard(index) for index in range(len(self.prompts.shards)))

    def shard(self, index: int) -> dict[int, list[Imported]]:
        """prompt_id → its completions, prompts in the shard's order, completions in the source's."""
        found: dict[int, list[Imported]] = {}
        for prompt, rows in self.spool.read(index):
            found.setdefault(prompt, []).extend(Imported(**row) for row in rows)
        order = self.context.lake.read_shard(self.prompts, index, ["prompt_id"]).column(0).to_pylist()
        return {prompt: found[prompt] for prompt in order if prompt in found}


@contextlib.contextmanager
def by_prompt(context: Context, prompts: Slice, name: str, source: ImportSource) -> Iterator[Completions]:
    """Every completion of the recipe's train prompts, until the block is left.

    Completions of held-out prompts, and of prompts that are not the recipe's, are left out and counted."""
    with Spool(context.lake.root) as spool:
        found = Completions(context, prompts, spool)
        _fill(found, name, source)
        yield found


def _fill(found: Completions, name: str, source: ImportSource) -> None:
    context, prompts = found.context, found.prompts
    place, most = _places(context, prompts), source.n or MOST
    held_out, foreign = "of held-out prompts", f"of prompts that are not in {prompts.path}"
    beyond = f"beyond the first {most} of their prompt"
    left_out = Counter(dict.fromkeys((held_out, foreign, beyond), 0))  # said in this order
    for prompt, completions in _completions_of(context, name, source):
        shard = place.get(prompt)
        if shard is None or shard < 0:
            left_out[foreign if shard is None else held_out] += len(completions)
            continue
        kept = completions[: most - found.per_prompt[prompt]]
        left_out[beyond] += len(completions) - len(kept)
        if kept:
            found.per_prompt[prompt] += len(kept)
            found.spool.add(shard, (prompt, [vars(row) for row in kept]))
    if not found.rows:
        raise Refusal(
            f"imports.{name}: none of the prompts in {source.path} is a train prompt of {prompts.path}",
            f"prompts.path={source.path}, or correct imports.{name}.columns.messages",
        )
    for why, count in left_out.items():
        if count:
            context.say(f"imports.{name}: {count:,} completions {why} are left out")


def _places(context: Context, prompts: Slice) -> dict[int, int]:
    """prompt_id → its shard, −1 where it is held out."""
    found: dict[int, int] = {}
    for index in range(len(prompts.shards)):
        rows = context.lake.read_shard(prompts, index, ["prompt_id", "split"])
        for prompt, split in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            found[prompt] = index if split == "train" else -1
    return found


def _completions_of(context: Context, name: str, source: ImportSource) -> Iterator[tuple[int, list[Imported]]]:
    """prompt_id and completions of each row of the source."""
    from factory.stages.prompts import message_columns

    what = f"imports.{name}"
    raw = Rows(source, what)
    columns = message_columns(raw.names, source.columns, COLUMNS, what)
    if "completion" not in columns:
        alias = next((c for c in TEXTS if c in raw.names), None)
        if alias is None:
            raise Refusal(
                f"{what}: no column holds the completion; there are: {', '.join(raw.names)}",
                f"{what}.columns={{completion: {raw.names[-1]}}}",
            )
        columns["completion"] = alias
    for number, row in enumerate(raw, 1):
        where = f"{what}: {source.path} row {number}"
        messages = messages_of(row.get(columns["messages"]), f"{where}: messages", context.recipe.prompts.system)
        yield prompt_id(messages), _of_row(row, columns, source, where)


def _of_row(row: Mapping[str, Any], columns: Mapping[str, str], source: ImportSource, where: str) -> list[Imported]:
    texts, several = _texts(row.get(columns["completion"]), where)
    per = {c: _spread(row.get(columns[c]), several, len(texts), f"{where}: {c}") for c in COLUMNS[2:] if c in columns}
    for column, kind in (("token_ids", int), ("logprobs", (int, float, type(None)))):
        for value in per.get(column, ()):
            if value is not None and not (
                isinstance(value, list) and all(type(v) is not bool and isinstance(v, kind) for v in value)
            ):
                raise Refusal(f"{where}: {column} is no list of numbers", f"correct that row, or leave {column} out")
    for column in source.rewards:
        if column not in row:
            raise Refusal(f"{where} has no reward column {column!r}", "correct `rewards:` of the import")
    rewards = {c: _spread(row[c], several, len(texts), f"{where}: {c}") for c in source.rewards}
    return [
        Imported(where, text, **{c: v[i] for c, v in per.items()}, rewards={c: v[i] for c, v in rewards.items()})
        for i, text in enumerate(texts)
    ]


def _texts(value: Any, where: str) -> tuple[list[str], bool]:
    """The completion's text, or several; an assistant's message list counts as its content."""
    if isinstance(value, list) and value and not _is_chat(value):
        return [_texts(v, where)[0][0] for v in value], True
    if isinstance(value, list) and value:
        value = "".join(str(message["content"]) for message in value)
    if not isinstance(value, str):
        raise Refusal(f"{where}: the completion is no text", "correct that row, or map `completion` to another column")
    return [nfc(value)], False


def _is_chat(value: list[Any]) -> bool:
    return all(isinstance(message, Mapping) and "content" in message for message in value)


def _spread(value: Any, several: bool, count: int, where: str) -> list[Any]:
    """One entry a completion, from a column of one row."""
    if value is None:
        return [None] * count
    if not several:
        return [value]
    if not isinstance(value, list) or len(value) != count:
        raise Refusal(f"{where} has not one entry for each of {count} completions", "correct that row")
    return value
