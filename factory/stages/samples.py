"""The pool: groups of samples of the policy, with the log-probabilities they were drawn under.

Reads train `prompts`. Writes `groups` and `samples`. A pool of fewer samples is topped up: its rows are copied, only new ones
drawn. With `sampling.alpha` the teacher, which reads its own messages in its own template, is mixed in token by token, and the
mixture is the behaviour that is recorded. Refuses prompts longer than the model's context, and a teacher of other ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.config import sampling_settings
from data.contract import GROUPS, SAMPLES
from data.keys import hex_id, id64, sample_seed
from data.lake import Key, Shard
from data.manifest import Slice
from data.pool import groups_key, samples_key
from data.refusal import Refusal
from data.storage import read_shard
from factory.context import Context, Work
from factory.engines import Draw, GroupRequest, Mixing, TokenSampling, engine_version
from factory.stages.answer_spans import refuse_lost_tags
from factory.stages.scores import refuse_other_tokens

MOST = 256  # sample_index is uint8


def run(context: Context) -> list[Slice]:
    """Publish the recipe's pool, unless it is imported."""
    if any(source.kind == "samples" for source in context.settings.imports.values()):
        context.say("samples: the pool is imported, nothing to draw")
        return []
    recipe = context.recipe
    if not 1 <= recipe.sampling.n <= MOST:
        raise Refusal(f"sampling.n is {recipe.sampling.n}; a group holds 1 to {MOST} samples", "sampling.n=8")
    if recipe.sampling.temperature <= 0:
        raise Refusal("sampling.temperature is 0: a greedy pool has no spread to learn from", "sampling.temperature=1")
    if recipe.sampling.alpha:
        refuse_other_tokens(context, "sampling.alpha=0")
    refuse_lost_tags(context, "policy")
    groups = make_groups(context)
    return [groups, _make_samples(context, groups)]


def make_groups(context: Context) -> Slice:
    """One row a train prompt: the prompt's ids and how it is sampled."""
    recipe, prompts, policy = context.recipe, context.prompts(), context.row("policy")
    teacher = context.row("teacher")["model_id"] if recipe.sampling.alpha else None
    key = groups_key(recipe, prompts, policy, context.stop_ids("policy", recipe.sampling.stop), teacher)
    settings = dict(key.settings)
    mixed = [teacher] if teacher else []

    def compute(shard: Shard, work: Work) -> pa.Table:
        table = train_rows(shard.parent_rows(["prompt_id", "messages", "split"]))
        ids = prompt_ids(context, "policy", table, recipe.sampling.max_tokens)
        seeds = {"policy": policy["model_id"], **settings}
        rows = [
            {
                "group_id": id64(
                    "group", prompt, seeds["policy"], settings["sampling"], settings["stop_ids"], recipe.seed, *mixed
                ),
                "prompt_id": prompt,
                "prompt_token_ids": tokens,
            }
            for prompt, tokens in zip(table.column("prompt_id").to_pylist(), ids, strict=True)
        ]
        work.done(len(rows))
        return group_table(
            rows,
            policy["model_id"],
            settings["sampling"],
            settings["stop_ids"],
            "processed",
            recipe.factory.engine.name,
        )

    return context.make(
        "samples",
        "groups",
        key,
        recipe.pool_label,
        compute,
        total=train_count(prompts),
        unit="prompts",
    )


def train_count(prompts: Slice) -> int:
    """How many prompts may be sampled and answered; none is refused."""
    count = prompts.rows - int(prompts.notes.get("held_out", 0))
    if not count:
        raise Refusal(f"{prompts.path}: all {prompts.rows} prompts are held out", "prompts.held_out=0.1")
    return count


def train_rows(prompts: pa.Table) -> pa.Table:
    """The rows that may be sampled and answered."""
    return prompts.filter(pc.equal(prompts.column("split"), "train"))


def prompt_ids(context: Context, role: str, prompts: pa.Table, max_tokens: int) -> list[list[int]]:
    """The prompts in a model's template. Refuses one that leaves no room for `max_tokens`."""
    tokens = context.tokens(role)
    found = []
    for id_, messages in zip(
        prompts.column("prompt_id").to_pylist(), prompts.column("messages").to_pylist(), strict=True
    ):
        ids = tokens.prompt_ids(messages)
        if tokens.context is not None and len(ids) + max_tokens > tokens.context:
            raise Refusal(
                f"prompt {hex_id(id_)} has {len(ids)} tokens; with {max_tokens} to be drawn that is more than the {tokens.context}"
                f" positions of {context.model(role).path}",
                f"shorten that prompt, or make max_tokens smaller (at most {max(tokens.context - len(ids), 0)} fit behind it)",
            )
        found.append(ids)
    return found


def group_table(
    rows: list[dict[str, Any]], policy: str, sampling: dict[str, Any], stop_ids: list[int], mode: str, engine: str
) -> pa.Table:
    """Rows of `groups` with the columns that all of them share."""
    truncated = sampling.get("top_p", 1.0) < 1 or sampling.get("top_k", 0) > 0
    names = ("temperature", "top_p", "top_k", "max_tokens", "repetition_penalty")
    shared = {name: sampling.get(name) for name in names} | {
        "policy": policy,
        "stop_ids": stop_ids,
        "alpha": sampling.get("alpha", 0.0),
        "logprobs_mode": mode,
        "support": "truncated" if truncated else "full",
        "engine": engine,
        "engine_version": engine_version(engine),
    }
    return pa.Table.from_pylist([{**row, **shared} for row in rows], schema=GROUPS.schema)


def _make_samples(context: Context, groups: Slice) -> Slice:
    recipe = context.recipe
    key = samples_key(recipe, groups)
    older = _older(context, key, groups)
    round_ = round_of(context)
    total = groups.rows * recipe.sampling.n

    def compute(shard: Shard, work: Work) -> pa.Table:
        wanted = shard.parent_rows(["group_id", "prompt_token_ids"])
        there = older.get(groups.shards[shard.index].key)
        kept = _first(read_shard(*there), recipe.sampling.n) if there is not None else SAMPLES.schema.empty_table()
        told = _told(context, shard.index, groups) if recipe.sampling.alpha else {}
        return _sampled(context, wanted, kept.to_pylist(), round_, told, work)

    return context.make(
        "samples",
        "samples",
        key,
        recipe.pool_label,
        compute,
        total=total,
        unit="samples",
        model=context.model("policy").path,
        ability="mix" if recipe.sampling.alpha else "generate",
    )


def _told(context: Context, index: int, groups: Slice) -> dict[int, list[int]]:
    """group_id → the prompt as the teacher reads it. Refuses one that leaves no room for a sample."""
    prompts = context.prompts()
    asked = context.lake.read_shard(prompts, index, ["prompt_id", "messages", "teacher_messages"]).to_pylist()
    shown = [row["teacher_messages"] or row["messages"] for row in asked]
    table = pa.table({"prompt_id": pa.array([row["prompt_id"] for row in asked], pa.uint64()), "messages": shown})
    wanted = context.lake.read_shard(groups, index, ["group_id", "prompt_id"]).to_pylist()
    drawn = {row["prompt_id"] for row in wanted}
    table = table.filter(pc.is_in(table.column("prompt_id"), pa.array(drawn, pa.uint64())))
    ids = prompt_ids(context, "teacher", table, context.recipe.sampling.max_tokens)
    by_prompt = dict(zip(table.column("prompt_id").to_pylist(), ids, strict=True))
    return {row["group_id"]: by_prompt[row["prompt_id"]] for row in wanted}


def _sampled(
    context: Context,
    wanted: pa.Table,
    kept: list[dict[str, Any]],
    round_: int,
    told: dict[int, list[int]],
    work: Work,
) -> pa.Table:
    """The shard's samples in order of its groups: rows that are there, and the missing ones drawn.

    told: what the teacher reads, where it is mixed in."""
    recipe = context.recipe
    by_group: dict[int, list[dict[str, Any]]] = {}
    for row in kept:
        by_group.setdefault(row["group_id"], []).append(row)
    ids = dict(zip(wanted.column("group_id").to_pylist(), wanted.column("prompt_token_ids").to_pylist(), strict=True))
    sampling = token_sampling(context)
    requests = []
    for group_id, tokens in ids.items():
        first = len(by_group.get(group_id, []))
        seeds = [sample_seed(recipe.seed, group_id, i) for i in range(first, recipe.sampling.n)]
        if seeds:
            requests.append(GroupRequest(group_id, tokens, seeds, sampling, first))
    if requests:
        engine = context.engine("policy", "generate")
        work.tally.device = engine.device
        mixing = Mixing(context.engine("teacher", "mix"), told, recipe.sampling.alpha) if told else None
        for group in engine.generate(requests, mixing):
            rows = [
                _row(context, group.group_id, group.first_index + i, d, round_) for i, d in enumerate(group.samples)
            ]
            by_group.setdefault(group.group_id, []).extend(rows)
            read = len(ids[group.group_id]) + len(told.get(group.group_id, []))
            work.done(len(rows), read, sum(row["n_tokens"] for row in rows))
    return pa.Table.from_pylist([row for group_id in ids for row in by_group[group_id]], schema=SAMPLES.schema)


def token_sampling(context: Context) -> TokenSampling:
    """The recipe's sampling for the policy's ids."""
    sampling = {k: v for k, v in sampling_settings(context.recipe).items() if k not in ("n", "stop", "alpha")}
    return TokenSampling(**sampling, stop_ids=tuple(context.stop_ids("policy", context.recipe.sampling.stop)))


def _row(context: Context, group_id: int, index: int, draw: Draw, round_: int) -> dict[str, Any]:
    return {
        "group_id": group_id,
        "sample_index": index,
        "token_ids": draw.token_ids,
        "n_tokens": len(draw.token_ids),
        "text": context.tokens("policy").text(draw.token_ids),
        "behaviour_logprobs": draw.logprobs,
        "finish_reason": draw.finish_reason,
        "stop_token": draw.stop_token,
        "origin": "mixed" if context.recipe.sampling.alpha else "student",
        "round": round_,
        "seed": sample_seed(context.recipe.seed, group_id, index),
    }


def _first(rows: pa.Table, n: int) -> pa.Table:
    return rows.filter(pc.less(rows.column("sample_index"), n))


def _older(context: Context, key: Key, groups: Slice) -> dict[str, tuple[Path, str]]:
    """Group shard's key → file and key of samples drawn for exactly those groups under another n, the largest."""

    def without_n(settings: Any) -> dict[str, Any]:
        return {**settings, "sampling": {k: v for k, v in settings.get("sampling", {}).items() if k != "n"}}

    same = [
        s
        for s in context.lake.slices("samples")
        if s.models == dict(key.models) and without_n(s.settings) == without_n(key.settings)
    ]
    found: dict[str, tuple[Path, str]] = {}
    for slice_ in sorted(same, key=lambda s: s.settings["sampling"]["n"]):
        parent = context.lake.slice(slice_.parent("groups"))
        shards = zip(parent.shards, slice_.files, slice_.shards, strict=True)
        found |= {group.key: (file, shard.key) for group, file, shard in shards if file.is_file()}
    return {shard.key: found[shard.key] for shard in groups.shards if shard.key in found}


def round_of(context: Context) -> int:
    """0 for the initial student; for a run, one more than the round of the pool that it was trained on."""
    recipe = context.recipe
    if recipe.policy == "student":
        return 0
    name = recipe.policy.removeprefix("run:")
    runs = [path for path in context.lake.journal("runs") if path.stem == name]
    rows = [row for path in runs for row in read_shard(path, name, ["slices"]).to_pylist()]
    named = json.loads(rows[-1]["slices"]) if rows else []
    paths = list(named.values()) if isinstance(named, dict) else list(named)
    pools = [p for p in paths if isinstance(p, str) and p.startswith("samples/")]
    if not pools or not context.lake.has(pools[0]):
        return 1
    first = context.lake.slice(pools[0])
    rounds = context.lake.read(replace(first, shards=first.shards[:1]), ["round"]).column(0)
    return int(pc.max(rounds).as_py() or 0) + 1
