"""What a pool, further rounds and longer replay cost and bring: the third part of docs/evidence.md.

    python tests/bench/evidence/rounds.py [--seeds 11,12] [--write]

Three ways to learn, three rounds of 150 updates each by `trainer.rounds`; beside each the same 450 updates on the first pool alone.
The last way is as near to an online loop as rounds come: a pool for every ten updates. Tokens and seconds are those that
factory and trainer wrote into `costs` and `runs`: models loaded, processes started and evaluation are not in them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from page import parser, table, tell
from seeds import difference, interval
from worlds import World, evaluated, side_by_side

UPDATES = 150


@dataclass(frozen=True)
class Way:
    """One way to learn, `rounds` times `steps` updates."""

    name: str
    words: tuple[str, ...]
    rounds: int = 3
    steps: int = UPDATES

    def run(self, key: str, number: int) -> str:
        """Name of a round's run."""
        return f"{key}-round{number}"


BC, REPLAY, HYBRID = ("arm=bc_best",), ("arm=replay", "objective=seq_tis"), ("arm=hybrid", "objective=seq_tis")
WAYS = {
    "bc": Way("BC on filtered best-of-N", BC),
    "replay": Way("replay, `seq_tis`", REPLAY),
    "hybrid": Way("hybrid, `seq_tis`", HYBRID),
    "bc-long": Way("BC on filtered best-of-N, one pool", BC, 1, 3 * UPDATES),
    "replay-long": Way("replay, `seq_tis`, one pool", REPLAY, 1, 3 * UPDATES),
    "hybrid-long": Way("hybrid, `seq_tis`, one pool", HYBRID, 1, 3 * UPDATES),
    "online": Way("replay, `seq_tis`, a pool each 10 updates", (*REPLAY, "optimiser.warmup=0"), 15, 10),
}
Figures = dict[str, dict[str, float]]


def measured(world: World) -> Figures:
    """KEY-roundN → exact, language, bits, and what had been paid until then: tokens sampled, tokens by the teacher, seconds."""
    there = world.trained()
    for key, way in WAYS.items():
        if way.run(key, way.rounds) not in there:
            words = [*way.words, f"run={key}", f"rounds={way.rounds}", f"patience={way.rounds}", f"steps={way.steps}"]
            world.run("-m", "trainer.rounds", "recipe=evidence", "pool=null", f"seed={world.seed}", *words)
    runs = [way.run(key, number) for key, way in WAYS.items() for number in range(1, way.rounds + 1)]
    figures, found = evaluated(world, runs), Figures()
    for key, way in WAYS.items():
        paid = {"sampled": 0.0, "teacher": float(world.sql(ANSWERED)[0]["tokens"]), "seconds": 0.0}
        for number in range(1, way.rounds + 1):
            pool = "demo" if number == 1 else f"evidence-{way.run(key, number - 1)}"
            [row] = world.sql(PAID.format(pool=pool, run=way.run(key, number)))
            paid = {name: paid[name] + float(row[name]) for name in paid}
            found[way.run(key, number)] = figures[way.run(key, number)] | paid
    return found


# The first pool is labelled `demo`, a later one by the run that drew it; `answers` are bought once, with the first.
ANSWERED = """\
SELECT sum(tokens_out) AS tokens FROM costs
WHERE stage = 'answers' AND recipe = 'demo' AND produced LIKE 'answers/%'"""
PAID = """\
WITH ran AS (SELECT seconds AS trained, from_json(slices, '["VARCHAR"]') AS slices FROM runs WHERE run = '{run}'),
     made AS (SELECT stage, model, tokens_out, costs.seconds AS cost, trained
              FROM costs, ran WHERE (recipe = 'demo' AND '{pool}' = 'demo' AND stage <> 'corpus')
              OR starts_with(split_part(produced, '/', 2), '{pool}-') OR (recipe = 'evidence' AND list_contains(slices, produced)))
SELECT sum(tokens_out) FILTER (stage = 'samples') AS sampled,
       sum(tokens_out) FILTER (stage = 'scores' AND model = 'run:demo-teacher') AS teacher,
       sum(cost) + first(trained) AS seconds FROM made"""


def rows(worlds: Sequence[Figures]) -> list[list[str]]:
    """A line a way and, where there are several, a round."""
    lines = []
    for key, way in WAYS.items():
        shown = range(1, way.rounds + 1) if way.rounds <= 3 else (5, 10, 15)
        for number in shown:
            run, first = way.run(key, number), "hybrid-round1"
            exact = [world[run]["exact"] for world in worlds]
            told = [interval([world[run][name] for world in worlds]).mean for name in ("sampled", "teacher", "seconds")]
            apart = difference(exact, [world[first]["exact"] for world in worlds])
            name = way.name if way.rounds == 1 else f"{way.name}: round {number}"
            lines.append(
                [name, str(number * way.steps), str(interval(exact)), apart.signed, *(f"{v:,.0f}" for v in told)]
            )
    return lines


HEAD = [
    "way",
    "updates",
    "exact match",
    "− the hybrid's first round",
    "tokens sampled",
    "tokens by the teacher",
    "seconds",
]


def main(words: Sequence[str]) -> int:
    """Train, evaluate, count, print."""
    options = parser(__doc__, range(11, 16)).parse_args(words)
    tell({"rounds": table(HEAD, rows(side_by_side(options.seeds, measured)))}, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
