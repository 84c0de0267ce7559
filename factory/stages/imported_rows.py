"""Rows of an import under the prompts they belong to: one completion each, with what the source knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.keys import nfc, prompt_id
from data.manifest import Slice
from data.refusal import Refusal
from factory.config import ImportSource
from factory.context import Context
from factory.sources import messages_of, read_rows
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


def by_prompt(context: Context, prompts: Slice, name: str, source: ImportSource) -> list[dict[int, list[Imported]]]:
    """For each shard of the prompts: prompt_id → its completions, prompts in the shard's order, completions in the source's.

    Completions of held-out prompts, and of prompts that are not the recipe's, are left out and counted."""
    found, rows = _completions_of(context, name, source), 0
    shards: list[dict[int, list[Imported]]] = []
    held_out = beyond = 0
    for index in range(len(prompts.shards)):
        shard: dict[int, list[Imported]] = {}
        for row in context.lake.read_shard(prompts, index, ["prompt_id", "split"]).to_pylist():
            completions = found.pop(row["prompt_id"], [])
            if row["split"] != "train":
                held_out += len(completions)
            elif completions:
                shard[row["prompt_id"]] = completions[: source.n or MOST]
                beyond += len(completions) - len(shard[row["prompt_id"]])
                rows += len(shard[row["prompt_id"]])
        shards.append(shard)
    foreign = sum(len(completions) for completions in found.values())
    if not rows:
        raise Refusal(
            f"imports.{name}: none of the prompts in {source.path} is a train prompt of {prompts.path}",
            f"prompts.path={source.path}, or correct imports.{name}.columns.messages",
        )
    left_out = (
        (held_out, "of held-out prompts"),
        (foreign, f"of prompts that are not in {prompts.path}"),
        (beyond, f"beyond the first {source.n or MOST} of their prompt"),
    )
    for count, why in left_out:
        if count:
            context.say(f"imports.{name}: {count:,} completions {why} are left out")
    return shards


def _completions_of(context: Context, name: str, source: ImportSource) -> dict[int, list[Imported]]:
    from factory.stages.prompts import message_columns

    what = f"imports.{name}"
    raw = read_rows(source, what)
    columns = message_columns(raw, source.columns, COLUMNS, what)
    if "completion" not in columns:
        there = list(dict.fromkeys(key for row in raw for key in row))
        alias = next((c for c in TEXTS if c in there), None)
        if alias is None:
            raise Refusal(
                f"{what}: no column holds the completion; there are: {', '.join(there)}",
                f"{what}.columns={{completion: {there[-1]}}}",
            )
        columns["completion"] = alias
    found: dict[int, list[Imported]] = {}
    for number, row in enumerate(raw, 1):
        where = f"{what}: {source.path} row {number}"
        messages = messages_of(row.get(columns["messages"]), f"{where}: messages", context.recipe.prompts.system)
        found.setdefault(prompt_id(messages), []).extend(_of_row(row, columns, source, where))
    return found


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
