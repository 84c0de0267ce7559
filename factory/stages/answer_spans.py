"""Rows as components read them where models think aloud: the answer alone, with its own tokens and its own scores.

Reads texts and ids with the tokenizers that wrote them; a token belongs to the answer if it ends behind the answer's beginning, the
end token included. A row whose reasoning never ended has no answer: its text is None here, and its reward null, never 0. Reads no
table and writes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from data.reasoning import answer_at
from data.refusal import Refusal
from factory.alignment import Aligner, Ends, Pieces, ends
from factory.context import Context
from factory.rewards import Reward

Rows = list[dict[str, Any]]
NO_ANSWER = "its reasoning never ends"


@dataclass(frozen=True)
class Spans:
    """Which tokens of each row are its answer's. None: the row has no answer, or its tokens are not known."""

    start_x: list[int | None]
    """Character at which each answer begins."""
    own_x: list[np.ndarray | None]
    """bool, the writer's tokens."""
    scorer_x: list[int | None]
    """The answer's tokens in a scorer's own tokenizer, where that is another one."""


@dataclass(frozen=True)
class Reader:
    """Cuts rows of one writer: its tags and tokenizer, and, where a scorer of another tokenizer reads them, the pair of both."""

    context: Context
    role: str
    pair: Callable[[], Aligner | None] = lambda: None

    @property
    def tags(self) -> list[str]:
        """The writer's."""
        return self.context.recipe.reasoning.tags(self.role)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces.of(self.context.tokens(self.role).tokenizer)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        return frozenset(i for i in self.context.tokens(self.role).end if not self._pieces.spelt([i])[0])

    def spans(self, texts: Sequence[str | None], ids: Sequence[Sequence[int] | None]) -> Spans:
        """The answers of texts and of the ids that they were decoded from; ids that nobody knows are None."""
        start_x = [None if text is None else answer_at(text, self.tags) for text in texts]
        known = [
            x for x, (start, own) in enumerate(zip(start_x, ids, strict=True)) if start is not None and own is not None
        ]
        some_texts, some_ids = [texts[x] or "" for x in known], [ids[x] or [] for x in known]
        own_x: list[np.ndarray | None] = [None] * len(texts)
        scorer_x: list[int | None] = [None] * len(texts)
        pair = self.pair() if known else None
        if not known:
            return Spans(start_x, own_x, scorer_x)
        if pair is None:
            ended = [len(own) > 0 and own[-1] in self._end_ids for own in some_ids]
            own_ends, others = ends(self._pieces, some_texts, some_ids, ended), None
        else:
            reading = pair.read(some_texts, some_ids)
            own_ends, others = reading.student, _by_text(reading.scorer)
        for place, (x, end_t) in enumerate(zip(known, _by_text(own_ends), strict=True)):
            begin = len((texts[x] or "")[: start_x[x]].encode())
            own_x[x] = end_t > begin
            scorer_x[x] = None if others is None else int((others[place] > begin).sum())
        return Spans(start_x, own_x, scorer_x)


def _by_text(found: Ends) -> list[np.ndarray]:
    return np.split(found.end_n, np.cumsum(found.count_x)[:-1]) if len(found.count_x) else []


def answers_only(rows: Rows, scored: Sequence[Mapping[str, Any]], spans: Spans) -> tuple[Rows, list[dict[str, Any]]]:
    """The rows with the answer as their text, its tokens as theirs, and scores of these tokens alone."""
    cut, told = Rows(), list[dict[str, Any]]()
    for x, (row, score) in enumerate(zip(rows, scored, strict=True)):
        start, own = spans.start_x[x], spans.own_x[x]
        if row["text"] is None:
            cut.append(row)
        elif start is None:
            cut.append({**row, "text": None, "n_tokens": None, "finish_reason": NO_ANSWER})
        else:
            n_tokens = None if own is None else int(own.sum())
            cut.append({**row, "text": row["text"][start:], "n_tokens": n_tokens})
        told.append(_scores(score, own, spans.scorer_x[x]) if own is not None else {})
    return cut, told


def _scores(score: Mapping[str, Any], own: np.ndarray, n_scorer: int | None) -> dict[str, Any]:
    """The scores of the answer's tokens; their total is null where one of them has none."""
    logprobs = score.get("logprobs")
    if logprobs is None:
        return {}
    if len(logprobs) != len(own):
        raise Refusal(f"{len(logprobs)} scores of {len(own)} tokens", "python -m data verify")
    inside = [value for value, here in zip(logprobs, own, strict=True) if here]
    total = None if None in inside else sum(inside)
    return {"logprobs": inside, "total": total, "n_scorer_tokens": len(inside) if n_scorer is None else n_scorer}


def whole_again(rewards: list[Reward], spans: Spans) -> list[list[float | None] | None]:
    """The rewards' values a token, each at its token's place in the whole row; a token of the reasoning has none."""
    found: list[list[float | None] | None] = []
    for reward, own in zip(rewards, spans.own_x, strict=True):
        if reward.values is None or own is None:
            found.append(reward.values)  # type: ignore[arg-type]
            continue
        inside = iter(reward.values)
        found.append([next(inside) if here else None for here in own])
    return found


def refuse_lost_tags(context: Context, role: str) -> None:
    """Refuse tags that decoding drops: no text would show where the reasoning ends."""
    for tag in filter(None, context.recipe.reasoning.tags(role)):
        tokens = context.tokens(role)
        read = tokens.text(tokens.tokenizer(tag, add_special_tokens=False).input_ids)
        if tag not in read:
            raise Refusal(
                f"reasoning.{role}: {tag!r} is a special token of {context.model(role).path}, and decoding leaves it out",
                f'give it "special": false in the model\'s tokenizer.json, or reasoning.{role}=[]',
            )
