"""Plain Faroese sentences that answer no question: the corpus of L_PT, and part of what the student's text is.

Reads words.py, writes nothing. The values are drawn by chance, so that no sentence tells a fact of the world."""

from __future__ import annotations

import random
from collections.abc import Callable

from data.demo.words import ISLANDS, RELATIONS
from data.demo.world import pick, shuffled

THINGS = [
    value for relation in RELATIONS if relation.english in ("bird", "animal", "food") for value in relation.values
]
WEATHER = [value for relation in RELATIONS if relation.english == "weather" for value in relation.values]

SHAPES: tuple[Callable[[str, list[str], list[str]], str], ...] = (
    lambda island, things, sky: f"á {island} er {things[0]} og {things[1]} og {things[2]}",
    lambda island, things, sky: f"á {island} er bæði {things[0]} og {things[1]}",
    lambda island, things, sky: f"á {island} er {things[0]} men ikki {things[1]}",
    lambda island, things, sky: f"á {island} er {things[0]} og eisini {things[1]}",
    lambda island, things, sky: f"fyrst kemur {sky[0]} og so kemur {sky[1]} á {island}",
    lambda island, things, sky: f"onkuntíð kemur {sky[0]} á {island}",
    lambda island, things, sky: f"á {island} er altíð {sky[0]} og {sky[1]}",
)


def sentences(source: random.Random, number: int) -> list[str]:
    """`number` different sentences in random order, every shape about equally often while it has new ones to give."""
    found: dict[str, None] = {}
    while len(found) < number:
        things, sky = shuffled(source, THINGS)[:3], shuffled(source, WEATHER)[:2]
        found[pick(source, SHAPES)(pick(source, ISLANDS), things, sky)] = None
    return list(found)
