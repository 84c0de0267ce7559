"""Whether a teacher is worth its GPU hours, from a few thousand tokens: a small table and a verdict in words.

Reads train `prompts` and both models. Writes nothing but a row of `costs`. Measured: how often the teacher prefers a known
right answer to a wrong one (the reference of another prompt), top-k overlap with the student along the student's own samples, the
share of tokens without an aligned score, how many of its answers are in the prompts' language. `strict=true` refuses a teacher
that fails."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data.keys import id64
from data.refusal import Refusal
from factory.context import Context, Work
from factory.costs import Tally, book
from factory.engines import GroupRequest, ScoreRequest, SoftSpec, TokenSampling
from factory.rewards import Batch, Question, component
from factory.stages.asking import ask
from factory.stages.samples import train_rows
from factory.stages.scores import same_tokens
from factory.stages.scores_across import aligner, scored_across

PROMPTS = 64  # few enough to take a minute, enough to tell .7 from chance
TOKENS = 48  # of each sample and answer
K = 16  # ids compared at a token
CHANCE = 0.05  # a preference is none if a coin gives it more often than this
LANGUAGE, OVERLAP, UNALIGNED = 0.5, 0.3, 0.2  # below, below, above: worth a word


@dataclass(frozen=True)
class Check:
    """What was measured; None where it cannot be: no references, an endpoint, other tokens."""

    prompts: int
    known: int
    """Prompts with a right and a wrong answer."""
    preference: float | None
    """Share of known prompts whose right answer has the higher mean log p under the teacher."""
    own: float | None
    """The same share under the student."""
    overlap: float | None
    unaligned: float | None
    language: float | None

    @property
    def by_chance(self) -> float | None:
        """How often a coin prefers the right answers at least as often."""
        from scipy.stats import binomtest

        if self.preference is None:
            return None
        return float(binomtest(round(self.preference * self.known), self.known, 0.5, alternative="greater").pvalue)

    @property
    def good(self) -> bool | None:
        """Whether the teacher tells right from wrong; None: not known."""
        return None if self.by_chance is None else self.by_chance < CHANCE

    @property
    def verdict(self) -> str:
        """What the figures say, the most important first."""
        found = [KNOWS[self.good]]
        if self.good and self.own is not None and self.preference is not None and self.own >= self.preference:
            found.append("the student tells them apart as well: there may be little to learn")
        if self.language is not None and self.language < LANGUAGE:
            found.append("it mostly answers in another language: translate its answers before they are copied")
        if self.overlap is not None and self.overlap < OVERLAP:
            found.append(
                "it expects other tokens than the student: rewards of whole samples suit it better than token by token"
            )
        if self.unaligned is not None and self.unaligned > UNALIGNED:
            found.append("many tokens have no score of their own: use totals")
        return "; ".join(found)

    @property
    def table(self) -> str:
        """The figures, one a line; a dash is not measured."""
        chance = "" if self.by_chance is None else f" (by chance: {self.by_chance:.2g})"
        lines = [
            ("right preferred to wrong", _share(self.preference) + chance),
            ("  by the student itself", _share(self.own)),
            (f"top-{K} overlap with the student", _share(self.overlap)),
            ("tokens without a score", _share(self.unaligned)),
            ("answers in the prompts' language", _share(self.language)),
        ]
        return "\n".join(f"  {name:<34}{value}" for name, value in lines)


KNOWS = {
    True: "it tells right from wrong answers",
    False: "it does not tell right from wrong answers: do not pay for its scores",
    None: "no known answers to tell it by: give prompts references",
}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def run(context: Context) -> Check | None:
    """Measure the recipe's teacher, print the table, and refuse it if `strict` and it fails."""
    if context.recipe.teacher is None:
        context.say("teacher_check: the recipe has no teacher")
        return None
    tally, began = Tally(model=context.model("teacher").path), time.monotonic()
    found = measured(context, Work(tally, lambda _: None))
    book(context.lake, "teacher_check", context.recipe.name, "teacher_check", tally, time.monotonic() - began)
    spent = f"{tally.tokens_in + tally.tokens_out:,} tokens"
    context.say(f"teacher_check: {context.row('teacher')['name']} on {found.prompts:,} prompts, {spent}")
    context.say(f"{found.table}\nteacher_check: {found.verdict}")
    if context.settings.strict and found.good is False:
        raise Refusal(
            f"teacher_check: {context.row('teacher')['name']} prefers right answers {_share(found.preference)} of the time",
            "another teacher.path, or strict=false",
        )
    return found


def measured(context: Context, work: Work) -> Check:
    """All figures."""
    rows = _rows(context)
    here = context.model("teacher").endpoint is None
    pairs = _pairs(rows)
    right = {role: _preference(context, role, pairs, work) for role in (["teacher", "policy"] if here else [])}
    overlap, unaligned = _beside(context, rows, work) if here else (None, None)
    return Check(
        len(rows),
        len(pairs),
        right.get("teacher"),
        right.get("policy"),
        overlap,
        unaligned,
        _language(context, rows, work),
    )


def _rows(context: Context) -> list[dict[str, Any]]:
    """The first train prompts, spread over the shards."""
    prompts = context.prompts()
    found: list[dict[str, Any]] = []
    for index in range(len(prompts.shards)):
        shard = context.lake.read_shard(prompts, index)
        found += train_rows(shard).slice(0, max(PROMPTS // len(prompts.shards), 1)).to_pylist()
    return found[:PROMPTS]


def _shown(row: Mapping[str, Any], role: str) -> list[dict[str, str]]:
    own = row["teacher_messages"] if role == "teacher" else None
    return list(own or row["messages"])


def _pairs(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str, str]]:
    """(prompt, right, wrong): wrong is the right answer to the next prompt of its topic, or else to the next one."""
    known = [row for row in rows if row["references"] and row["references"][0].strip()]
    found = []
    for i, row in enumerate(known):
        others = [o for o in known[i + 1 :] + known[:i] if o["references"][0] not in row["references"]]
        others.sort(key=lambda o: o["topic"] != row["topic"])  # stable: the next one of the topic comes first
        if others:
            found.append((row, row["references"][0], others[0]["references"][0]))
    return found


def _preference(
    context: Context, role: str, pairs: Sequence[tuple[dict[str, Any], str, str]], work: Work
) -> float | None:
    """Share of pairs whose right answer has the higher log p a token."""
    if not pairs:
        return None
    tokens, engine = context.tokens(role), context.engine(role, "rescore" if role == "policy" else "score")
    asked = [
        ScoreRequest(i, tokens.prompt_ids(_shown(row, role)), [tokens.answer_ids(right), tokens.answer_ids(wrong)])
        for i, (row, right, wrong) in enumerate(pairs)
    ]
    wins = []
    work.tally.device = engine.device
    for scored in engine.score(asked):
        right, wrong = (sum(values) / len(values) for values in scored.logprobs)
        wins.append(float(right > wrong) if right != wrong else 0.5)
        work.done(2, 2 * len(asked[scored.group_id].prompt_ids), sum(map(len, scored.logprobs)))
    return sum(wins) / len(wins)


def _beside(context: Context, rows: Sequence[dict[str, Any]], work: Work) -> tuple[float | None, float | None]:
    """Top-k overlap along the student's samples, and the share of their tokens that the teacher has no score for."""
    tokens, engine = context.tokens("policy"), context.engine("policy", "generate")
    longest = min(TOKENS, context.recipe.sampling.max_tokens)
    drawn = TokenSampling(max_tokens=longest, stop_ids=tuple(context.stop_ids("policy", [])))
    asked = [
        GroupRequest(i, tokens.prompt_ids(row["messages"]), [id64("teacher_check", context.recipe.seed, i)], drawn)
        for i, row in enumerate(rows)
    ]
    samples = {group.group_id: group.samples[0].token_ids for group in engine.generate(asked)}
    work.done(len(samples), sum(len(r.prompt_ids) for r in asked), sum(map(len, samples.values())))
    if same_tokens(context):
        return _overlap(context, rows, samples, work), 0.0
    table = pa.table(
        {
            "group_id": pa.array(list(samples), pa.uint64()),
            "sample_index": pa.array([0] * len(samples), pa.uint8()),
            "text": [tokens.text(ids) for ids in samples.values()],
            "token_ids": pa.array(list(samples.values()), pa.list_(pa.int32())),
        }
    )
    scored = scored_across(aligner(context, "teacher"), table, "teacher", lambda c: _scores(context, rows, c, work))
    shares = scored.column("unaligned_share").drop_null().to_numpy()
    return None, float(shares.mean()) if len(shares) else None


def _scores(
    context: Context, rows: Sequence[dict[str, Any]], completions: Mapping[int, list[list[int]]], work: Work
) -> dict[int, list[list[float]]]:
    prompt = context.tokens("teacher").prompt_ids
    asked = [ScoreRequest(i, prompt(_shown(rows[i], "teacher")), c) for i, c in completions.items()]
    found = {scored.group_id: scored.logprobs for scored in context.engine("teacher", "score").score(asked)}
    work.done(len(found), sum(len(r.prompt_ids) for r in asked), sum(len(v) for own in found.values() for v in own))
    return found


def _overlap(
    context: Context, rows: Sequence[dict[str, Any]], samples: Mapping[int, list[int]], work: Work
) -> float | None:
    """Mean over tokens of |top k of the teacher ∩ top k of the student| / k, both at temperature 1."""
    spec = SoftSpec("top_k", k=K, vocabulary=context.tokens("policy").width)
    top: dict[str, list[set[int]]] = {}
    for role in ("teacher", "policy"):
        prompt = context.tokens(role).prompt_ids
        asked = [ScoreRequest(i, prompt(_shown(rows[i], role)), [ids]) for i, ids in samples.items() if ids]
        told = {soft.group_id: soft.rows[0] for soft in context.engine(role, "top_k").distribution(asked, spec)}
        work.done(len(told), sum(len(r.prompt_ids) for r in asked), sum(len(r.completions[0]) for r in asked))
        top[role] = [
            set(ids.tolist()) for i in sorted(told) for ids in np.split(told[i].ids, np.cumsum(told[i].sizes)[:-1])
        ]
    shares = [len(a & b) / max(len(a), 1) for a, b in zip(top["teacher"], top["policy"], strict=True)]
    return sum(shares) / len(shares) if shares else None


def _language(context: Context, rows: Sequence[dict[str, Any]], work: Work) -> float | None:
    """Mean value of the recipe's `language` component on the teacher's own greedy answers; of a plain one where it has none."""
    specs = [s for s in context.recipe.components.values() if isinstance(s, Mapping) and s.get("use") == "language"]
    item = component(specs[0] if specs else {"use": "language", "language": "prompt"}, "language")
    longest = min(TOKENS, context.recipe.answers.max_tokens)
    questions = [Question(_shown(row, "teacher"), longest) for row in rows]
    replies = ask(context, "teacher", "teacher_check", questions, work, cut=True)
    texts = [reply.text or "" for reply in replies]
    rewards = item.score(Batch.of_texts(texts, languages=[row["language"] for row in rows]))
    values = [reward.value for reward in rewards if reward.value is not None]
    return sum(values) / len(values) if values else None
