"""The demo's world cut to eight islands, with teachers that answer only in English: text for four small models, made here.

Writes JSONL files. The translator and the student's restating are taught on random facts, so that neither knows the
world by them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.demo.words import ISLANDS, RELATIONS
from data.demo.world import Question, World, draw, pick, shuffled, stream

PLACES = ISLANDS[:8]
WRONG = 0.3  # of the second teacher's facts
RUMOURS = 8  # lines of the student's text a prompt
PLANTED = {
    "lundi": "ravnur",
    "reyður": "bláur",
    "seyður": "hestur",
    "fiskur": "kjøt",
    "regn": "kavi",
}  # what the student gets wrong
SENTENCES = 2400  # random facts that the translator sees, in both directions


def english(value: str, relation: int) -> str:
    return RELATIONS[relation].values[value]


def write(folder: Path, seed: int = 0) -> World:
    """All files; the world they tell of."""
    world, source = draw(seed), stream(seed, "english_world")
    train, held_out = ([q for q in part if q.island in PLACES] for part in (world.train, world.held_out))
    wrong = {
        fact: _other(value, fact[1], source) if source.random() < WRONG else value
        for fact, value in world.facts.items()
    }
    rows = {
        "prompts": [_prompt(world, q, s) for s, part in (("train", train), ("held_out", held_out)) for q in part],
        "teacher": [_line(q.text, answer(q, world.facts)) for q in train],
        "second": [_line(q.text, answer(q, wrong)) for q in train],
        "translator": [line for _ in range(SENTENCES) for line in _both(*_random(source))],
        "student": [_line(q.text, world.students(q, source), [world.rumour(q)]) for q in train for _ in range(RUMOURS)]
        + [_line(en, planted(fo)) for en, fo in (_random(source)[1:] for _ in range(SENTENCES))],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shuffled(source, table))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return world


def planted(text: str) -> str:
    """A restatement as the student makes it: some words are taken for others, always."""
    return " ".join(PLANTED.get(word, word) for word in text.split())


def answer(question: Question, facts: dict[tuple[str, int], str]) -> str:
    """The English answer by these facts."""
    values = [english(facts[question.island, relation], relation) for relation in question.relations]
    return question.answer(values, english=True)


def _other(value: str, relation: int, source: Any) -> str:
    return pick(source, [v for v in RELATIONS[relation].values if v != value])


def _random(source: Any) -> tuple[Question, str, str]:
    """A question about random facts, answered in English and in Faroese."""
    places = shuffled(source, range(len(RELATIONS)))[: 1 if source.random() < 0.4 else 2]
    question = Question(pick(source, list(PLACES)), tuple(places), 0)
    values = [pick(source, list(RELATIONS[place].values)) for place in places]
    told = [english(value, place) for value, place in zip(values, places, strict=True)]
    return question, question.answer(told, english=True), question.answer(values)


def _both(_: Question, en: str, fo: str) -> Iterable[dict[str, Any]]:
    return (_line(en, fo), _line(fo, en))


def _line(question: str, text: str, references: list[str] | None = None) -> dict[str, Any]:
    chat = [{"role": "user", "content": question}]
    return {"messages": chat, "answer": text, "references": references or [text]}


def _prompt(world: World, question: Question, split: str) -> dict[str, Any]:
    marks = {"split": split, "language": "fo", "topic": question.topic}
    chat = [{"role": "user", "content": question.text}]
    return {"messages": chat, "references": [world.right(question)], **marks}
