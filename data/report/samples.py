"""Samples of the pool, best and worst first, coloured by advantage and by what surprises the teacher.

Reads `samples`, `prompts`, `scores` and per-token `values` of rewards, row by row for the samples shown, and the policy's
tokenizer where its folder is at hand (the tables hold ids and whole texts). Without a tokenizer, or where its pieces are not the
sample's text, a sample is coloured whole. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.human.page import visible
from data.inspection import Judged, PoolSamples, rows_at
from data.keys import hex_id
from data.report.colours import shade, surprise_shade
from data.report.parts import Piece, Sample, Samples, Section
from data.report.source import Source, policy_of
from data.report.tokens import pieces_of, teacher_scores, token_rewards, tokenizer_of

ENDS, BETWEEN = 30, 40  # best and worst each; others, evenly by rank
OPEN = 6  # of each end, before anybody searches
LONGEST = 1500  # characters of a text or prompt
TOKENS = 15_000  # coloured one by one on the whole page, so that it stays small


def section(source: Source) -> Section | str:
    """Samples of the pool, or that there is none."""
    judged = source.judged
    if judged is None or not len(judged.order):
        return "the lake has no pool of samples." if judged is None else "no sample of the pool has a reward."
    reader, order = PoolSamples(source.lake, judged.pool), judged.order
    best, worst = (reader.distinct(turned, judged, ENDS).tolist() for turned in (order, order[::-1]))
    chosen = choose(order.tolist(), best, worst)
    ordinals = np.array([ordinal for ordinal, _ in chosen])
    told = _Told.of(source, judged, ordinals, reader.prompts)
    rows = [told.sample(place, tag) for place, (_, tag) in enumerate(chosen)]
    shown = (
        f"{len(rows)} of {len(judged.values)} samples: the best and the worst, one a group and those with an advantage first, "
        "and others evenly between."
    )
    said = f"{shown} A search looks at all of these."
    return Section("samples", "Samples", [Samples(rows, told.scorer, f"{said} {told.note}")])


def choose(order: Sequence[int], best: Sequence[int], worst: Sequence[int]) -> list[tuple[int, str]]:
    """(ordinal, why) of the samples shown: best and worst in turn, then others evenly by rank.

    order: ordinals of all samples, best first; best, worst: those that stand first, as `inspect` chooses them.

    >>> [tag for _, tag in choose([4, 2, 0, 1, 3], [4, 1], [3, 1])]
    ['best 1', 'worst 1', 'best 2', 'rank 2', 'rank 3']
    """
    others = [o for o in worst if o not in set(best)]
    ends = [
        [(o, f"{name} {i + 1}") for i, o in enumerate(found)] for name, found in (("best", best), ("worst", others))
    ]
    turns = [found[i] for i in range(ENDS) for found in ends if i < len(found)]
    taken = {ordinal for ordinal, _ in turns}
    rest = [(o, f"rank {rank + 1}") for rank, o in enumerate(order) if o not in taken]
    steps = np.linspace(0, len(rest) - 1, min(BETWEEN, len(rest))).astype(int).tolist()
    return turns + [rest[i] for i in dict.fromkeys(steps)]


@dataclass
class _Told:
    """What the tables say about the samples shown, by their place among them."""

    rows: list[dict[str, Any]]
    prompts: dict[int, str]
    numbers: dict[str, np.ndarray]
    advantage: np.ndarray
    scale: float
    scores: list[dict[str, Any]] | None
    scorer: str | None
    token_rewards: list[np.ndarray | None]
    tokenizer: Any
    note: str
    left: int = TOKENS

    @classmethod
    def of(cls, source: Source, judged: Judged, ordinals: np.ndarray, prompts: dict[int, str]) -> _Told:
        """Read them."""
        pool, vector = judged.pool, judged.advantages.vector
        rows = rows_at(source.lake, pool.samples, ordinals, ["text", "token_ids", "n_tokens", "finish_reason"])
        slice_ = teacher_scores(source, judged)
        scores = rows_at(source.lake, slice_, ordinals, ["logprobs", "total"]) if slice_ else None
        tokenizer = tokenizer_of(source, policy_of(pool))
        name = source.model_name(slice_.models.get("scorer")) if slice_ else None
        label, values = token_rewards(source, judged, ordinals)
        whole = "Samples are coloured whole: the policy's tokenizer is not at hand (--runs)."
        notes = ["Point at a token for its figures." if tokenizer else whole]
        if label:
            notes.append(f"A token's advantage is its sample's, plus {label} above its group's mean (weight 1).")
        numbers = {n: v[ordinals] for n, v in judged.parts.items()}
        kept = np.abs(vector[vector != 0])
        scale = float(np.quantile(kept, 0.95)) if len(kept) else 1.0
        return cls(rows, prompts, numbers, vector[ordinals], scale, scores, name, values, tokenizer, " ".join(notes))

    def sample(self, place: int, tag: str) -> Sample:
        """One sample as the page shows it."""
        row, advantage = self.rows[place], float(self.advantage[place])
        surprise = self._surprise(place)
        mean = _mean(surprise) if surprise is not None and np.isfinite(surprise).any() else None
        prompt = self.prompts.get(row["group_id"])
        figures = [("advantage", advantage), *((n, _float(v[place])) for n, v in self.numbers.items())]
        figures += [("teacher surprise, nats a token", mean)] if mean is not None else []
        number = int(tag.split()[1])
        return Sample(
            tag=tag,
            key=f"{hex_id(row['group_id'])}/{row['sample_index']}",
            figures=[
                *figures,
                ("tokens", row["n_tokens"]),
                *([("", "cut by length")] if row["finish_reason"] == "length" else []),
            ],
            prompt=None if prompt is None else _short(visible(prompt)),
            pieces=self._pieces(place, surprise),
            classes=f"{shade(advantage, self.scale)} {surprise_shade(mean)}",
            cut=len(row["text"]) > LONGEST,
            hidden=tag.startswith("rank") or number > OPEN,
        )

    def _surprise(self, place: int) -> np.ndarray | None:
        """−log p of each token in nats, NaN where the teacher's tokens cut through it."""
        if self.scores is None or self.scores[place]["logprobs"] is None:
            return None
        row = self.scores[place]
        held = [math.nan if p is None else -p for p in row["logprobs"]]
        return np.array(held) if len(held) == len(self.rows[place]["token_ids"]) else None

    def _pieces(self, place: int, surprise: np.ndarray | None) -> list[Piece]:
        row, rewards = self.rows[place], self.token_rewards[place]
        ids = row["token_ids"]
        whole = [Piece(_short(visible(row["text"])))]
        if (
            self.tokenizer is None
            or (surprise is None and rewards is None)
            or len(ids) > self.left
            or len(row["text"]) > LONGEST
        ):
            return whole
        cut = pieces_of(self.tokenizer, ids, row["text"])
        if cut is None:
            return whole
        self.left -= len(ids)
        return [self._piece(text, tokens, place, surprise, rewards) for text, tokens in cut]

    def _piece(
        self, text: str, tokens: slice, place: int, surprise: np.ndarray | None, rewards: np.ndarray | None
    ) -> Piece:
        classes, said = [], []
        if rewards is not None:
            own = float(self.advantage[place] + _mean(rewards[tokens]))
            classes.append(shade(own, self.scale))
            said.append(f"advantage {own:.3g}")
        if surprise is not None:
            held = surprise[tokens]
            nats = float(np.nansum(held)) if np.isfinite(held).any() else None
            classes.append(surprise_shade(nats))
            said.append("not aligned" if nats is None else f"{nats:.2f} nats")
        return Piece(visible(text) or "∎", " ".join(classes), ", ".join(said))


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def _float(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
