"""An existing pool, or existing answers, brought under the recipe's prompts.

Reads a file or a hub data set. Writes `groups`, `samples` and a slice of `rewards` for each reward column, or `answers` and
`answer_tokens`. Missing behaviour log-probabilities are rescored by the policy and flagged. Refuses a row whose log-probabilities
do not belong to its tokens, log-probabilities that are all zero, and prompts that are none of the recipe's."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from data.contract import ANSWERS
from data.keys import digest
from data.lake import Key, Shard
from data.manifest import Slice
from data.refusal import Refusal, nearest
from factory.config import ImportSource
from factory.context import Context, Work
from factory.stages.answers import tokenised
from factory.stages.imported_rows import COLUMNS, Completions, Imported, by_prompt
from factory.stages.imported_samples import import_samples

__all__ = ["COLUMNS", "run"]
KINDS = ("samples", "answers")


def run(context: Context) -> list[Slice]:
    """Import everything that the recipe names."""
    imports = context.settings.imports
    if not imports:
        return []
    for name, source in imports.items():
        if source.kind not in KINDS:
            raise Refusal(
                f"imports.{name}.kind is {source.kind!r}: {nearest(source.kind, KINDS)}", f"imports.{name}.kind=samples"
            )
    made: list[Slice] = []
    for name, source in imports.items():
        made += _answers(context, name, source) if source.kind == "answers" else import_samples(context, name, source)
    return made


def _answers(context: Context, name: str, source: ImportSource) -> list[Slice]:
    prompts = context.prompts()
    with by_prompt(context, prompts, name, source) as completions:
        made = _published(context, source, prompts, completions)
    if context.lake.slices("answers")[-1] != made:
        made = context.lake.renew(made)
    return [made, tokenised(context, made, prompts)]


def _published(context: Context, source: ImportSource, prompts: Slice, completions: Completions) -> Slice:
    contents = tuple(
        digest([[prompt, [row.text for row in rows]] for prompt, rows in shard.items()])
        for shard in completions.shards()
    )
    key = Key({"import": {"kind": "answers"}}, (prompts,), {"teacher": "imported"}, contents)

    def compute(shard: Shard, work: Work) -> pa.Table:
        rows = [
            _row(prompt, candidate, row)
            for prompt, rows in completions.shard(shard.index).items()
            for candidate, row in enumerate(rows)
        ]
        work.done(len(rows))
        return pa.Table.from_pylist(rows, schema=ANSWERS.schema)

    label, notes, total = context.recipe.name, {"path": source.path}, completions.rows
    return context.make("import", "answers", key, label, compute, total=total, unit="answers", notes=notes)


def _row(prompt: int, candidate: int, row: Imported) -> dict[str, Any]:
    return {
        "prompt_id": prompt,
        "candidate": candidate,
        "text": row.text,
        "method": "imported",
        "finish_reason": row.finish_reason,
    }
