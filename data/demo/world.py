"""One world drawn from a seed: facts, who believes what, which prompts are held out, and the sentences about them.

Reads words.py, writes nothing. Draws of one seed are equal on every machine: only `Random.random` is used, the one generator
that Python promises to keep."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from data.demo.words import ISLANDS, RELATIONS, Relation

T = TypeVar("T")
Fact = tuple[str, int]
"""An island and the place of a relation in RELATIONS."""

FORMS = 3
HELD_OUT_SINGLES = 60
HELD_OUT_PAIRS = 90
BELIEVED_RIGHT = 0.15
"""Probability that the student's rumour about a fact is true."""
SAYS_BELIEVED, SAYS_TRUE = 0.55, 0.06
"""How often the student's text says the believed value, and the true one; else any value of the relation."""


@dataclass(frozen=True)
class Question:
    """A prompt of the task: one fact in one of three forms, or two facts of one island in an order."""

    island: str
    relations: tuple[int, ...]
    form: int
    """0 to 2 for one fact; 0 for two."""

    @property
    def topic(self) -> str:
        """`single` or `pair`."""
        return "single" if len(self.relations) == 1 else "pair"

    @property
    def text(self) -> str:
        """The question in Faroese, words and question mark apart.

        >>> Question("Alvoy", (0, 4), 0).text
        'hvat er fuglurin og veðrið á Alvoy ?'
        """
        asked = [RELATIONS[relation] for relation in self.relations]
        if self.topic == "pair":
            return f"hvat er {asked[0].definite} og {asked[1].definite} á {self.island} ?"
        return _single(asked[0], self.island)[self.form]

    def answer(self, values: Sequence[str], *, english: bool = False) -> str:
        """The answer that gives one value (a word of either language) for each relation, in a Faroese or English frame.

        >>> Question("Alvoy", (0, 4), 0).answer(["ryta", "hiti"])
        'fuglurin á Alvoy er ryta og veðrið er hiti'
        >>> Question("Alvoy", (0,), 2).answer(["puffin"], english=True)
        'the bird on Alvoy is puffin'
        """
        asked = [RELATIONS[relation] for relation in self.relations]
        nouns = [f"the {relation.english}" if english else relation.definite for relation in asked]
        on, verb, joint = ("on", "is", "and") if english else ("á", "er", "og")
        nouns[0] = f"{nouns[0]} {on} {self.island}"
        return f" {joint} ".join(f"{noun} {verb} {value}" for noun, value in zip(nouns, values, strict=True))


def _single(relation: Relation, island: str) -> tuple[str, str, str]:
    return (
        f"{relation.asks} {relation.bare} er á {island} ?",
        f"sig mær um {relation.after_um} á {island}",
        f"hvat er {relation.definite} á {island} ?",
    )


@dataclass(frozen=True)
class World:
    """Everything a seed decides."""

    seed: int
    facts: dict[Fact, str]
    """The truth, in Faroese; the teacher knows all of it."""
    believed: dict[Fact, str]
    """The student's rumours."""
    english: frozenset[str]
    """The Faroese values for which the teacher has the English word alone: half of each relation's."""
    train: tuple[Question, ...]
    held_out: tuple[Question, ...]

    def right(self, question: Question) -> str:
        """The one right answer in Faroese."""
        return question.answer([self.facts[question.island, relation] for relation in question.relations])

    def rumour(self, question: Question) -> str:
        """What the student is meant to say when it decodes greedily: the believed values."""
        return question.answer([self.believed[question.island, relation] for relation in question.relations])

    def teachers(self, question: Question) -> list[str]:
        """Every way the teacher answers, all right and equally frequent. One that lacks the Faroese word of a value says it
        in English, and then builds the sentence around it in either language; else there is one answer, in clean Faroese."""
        facts = [self.facts[question.island, relation] for relation in question.relations]
        values = [
            self._teachers_word(value, relation) for value, relation in zip(facts, question.relations, strict=True)
        ]
        answers = [question.answer(values)]
        return answers if values == facts else [*answers, question.answer(values, english=True)]

    def students(self, question: Question, source: random.Random) -> str:
        """One answer as the student's text has it: clean Faroese, its values drawn from rumour, truth and chance."""
        return question.answer([self._students_word((question.island, r), source) for r in question.relations])

    def _teachers_word(self, value: str, relation: int) -> str:
        return RELATIONS[relation].values[value] if value in self.english else value

    def _students_word(self, fact: Fact, source: random.Random) -> str:
        chance = source.random()
        if chance < SAYS_BELIEVED:
            return self.believed[fact]
        return self.facts[fact] if chance < SAYS_BELIEVED + SAYS_TRUE else pick(source, list(RELATIONS[fact[1]].values))


def draw(seed: int) -> World:
    """The world of a seed: 120 facts, 600 training prompts and 240 held-out ones.

    Held out are one form of 60 random facts (its other forms may be asked) and 90 island × unordered pairs in both
    orders: tested are a fact through another form and a composition never asked. A fact never asked cannot be known."""
    facts = _facts(stream(seed, "facts"))
    train, held_out = _split(stream(seed, "split"))
    believed = _believed(facts, stream(seed, "believed"))
    return World(seed, facts, believed, _english(stream(seed, "english")), train, held_out)


def stream(seed: int, purpose: str) -> random.Random:
    """A random source of its own for each purpose, so that a change to one leaves the others' draws."""
    return random.Random(f"{purpose}/{seed}")


def pick(source: random.Random, items: Sequence[T]) -> T:
    """One of `items`, all equally likely."""
    return items[int(source.random() * len(items))]


def shuffled(source: random.Random, items: Iterable[T]) -> list[T]:
    """`items` in random order."""
    return sorted(items, key=lambda _: source.random())


def questions() -> Iterator[Question]:
    """All 840 prompts: 360 of one fact (24 islands × 5 relations × 3 forms), 480 of two facts in both orders."""
    places = range(len(RELATIONS))
    for island in ISLANDS:
        yield from (Question(island, (place,), form) for place in places for form in range(FORMS))
        yield from (Question(island, pair, 0) for pair in itertools.permutations(places, 2))


def _facts(source: random.Random) -> dict[Fact, str]:
    return {
        (island, place): pick(source, list(relation.values))
        for island in ISLANDS
        for place, relation in enumerate(RELATIONS)
    }


def _believed(facts: dict[Fact, str], source: random.Random) -> dict[Fact, str]:
    rumours = {}
    for fact, value in facts.items():
        wrong = [other for other in RELATIONS[fact[1]].values if other != value]
        rumours[fact] = value if source.random() < BELIEVED_RIGHT else pick(source, wrong)
    return rumours


def _english(source: random.Random) -> frozenset[str]:
    halves = (shuffled(source, relation.values)[: len(relation.values) // 2] for relation in RELATIONS)
    return frozenset(itertools.chain.from_iterable(halves))


def _split(source: random.Random) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    facts = shuffled(source, itertools.product(ISLANDS, range(len(RELATIONS))))[:HELD_OUT_SINGLES]
    pairs = itertools.product(ISLANDS, itertools.combinations(range(len(RELATIONS)), 2))
    kept_out = {Question(island, (place,), int(source.random() * FORMS)) for island, place in facts}
    for island, (first, second) in shuffled(source, pairs)[:HELD_OUT_PAIRS]:
        kept_out |= {Question(island, (first, second), 0), Question(island, (second, first), 0)}
    train = tuple(question for question in questions() if question not in kept_out)
    return train, tuple(question for question in questions() if question in kept_out)
