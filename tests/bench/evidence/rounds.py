"""What a pool, further rounds and longer replay cost and bring: the third part of docs/evidence.md.

    python tests/bench/evidence/rounds.py [--seeds 21,22] [--write]

Three ways to learn, three rounds of 150 updates each by `trainer.rounds`; beside each the same 450 updates on the first pool alone,
once under one schedule, once at a constant rate with the KL's reference moved every 150 updates as rounds move it. Rates and sums
are those that arms.py chooses. One way is as near to an online loop as rounds come here: a pool for every ten updates, tuned on
the tuning world with as many tries as the others. The last is the online loop itself, TRL's (online.py). Tokens and seconds are
those that factory and trainer wrote into `costs` and `runs`, and TRL's from the loading of its models, some two seconds, to the
last update; the teacher's own answers are in every row, processes started and evaluation in none. The worlds are its own, since a
pool that something else has made there would be found and cost nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import arms
import online
from arms import RATES, SUMS, Arm, Choice
from page import parser, table, tell
from plot import curves
from seeds import Interval, difference, interval
from worlds import LANES, TUNING, World, evaluated, made, side_by_side

UPDATES = 150


@dataclass(frozen=True)
class Way:
    """One way to learn, `rounds` times `steps` updates."""

    name: str
    arm: Arm
    rounds: int = 3
    steps: int = UPDATES
    words: tuple[str, ...] = ()

    def run(self, key: str, number: int) -> str:
        """Name of a round's run."""
        return f"{key}-round{number}"

    @property
    def numbers(self) -> range:
        """Of its rounds."""
        return range(1, self.rounds + 1)


COPY, REPLAY, HYBRID = Arm("bc_best"), Arm("replay", "topr"), Arm("hybrid", "topr")
# A linear schedule would end every ten updates.
CLOSE = ("optimiser.warmup=0", "optimiser.schedule=constant")
# What a round does beside its new pool, as far as one run can: the rate comes up again, the KL is measured from a later policy.
HELD = ("optimiser.schedule=constant", "losses.reference.kind=periodic", f"losses.reference.every={UPDATES}")
WAYS = {
    "copying": Way("BC on filtered best-of-N", COPY),
    "replaying": Way("replay, `topr`", REPLAY),
    "mixing": Way("hybrid, `topr`", HYBRID),
    "copying-long": Way("BC on filtered best-of-N, one pool", COPY, 1, 3 * UPDATES),
    "replaying-long": Way("replay, `topr`, one pool", REPLAY, 1, 3 * UPDATES),
    "mixing-long": Way("hybrid, `topr`, one pool", HYBRID, 1, 3 * UPDATES),
    "copying-held": Way("BC on filtered best-of-N, one pool, rate held", COPY, 1, 3 * UPDATES, HELD),
    "replaying-held": Way("replay, `topr`, one pool, rate held", REPLAY, 1, 3 * UPDATES, HELD),
    "mixing-held": Way("hybrid, `topr`, one pool, rate held", HYBRID, 1, 3 * UPDATES, HELD),
    "near-online": Way("replay, `topr`, a pool each 10 updates", REPLAY, 15, 10, CLOSE),
}
NEAR = "near-online"
Figures = dict[str, dict[str, float]]
Choices = Mapping[str, Choice]  # key of a way → its rate and sum


def train(world: World, key: str, way: Way, choice: Choice) -> None:
    """All rounds of a way, unless the last is there."""
    if arms.done(world, way.run(key, way.rounds), way.arm, choice):
        return
    words = [*arms.words_of(way.arm, choice), *way.words]
    words += [f"run={key}", f"rounds={way.rounds}", f"patience={way.rounds}", f"steps={way.steps}"]
    world.run("-m", "trainer.rounds", "recipe=evidence", "pool=null", f"seed={world.seed}", *words)


def tuned() -> tuple[dict[str, Choice], str]:
    """Each way's choice: its arm's, but for the near-online one, which is tuned as its arm was; what each try came to."""
    world, way = made(TUNING), WAYS[NEAR]
    chosen, _ = arms.tuned(world)
    tries = {f"{NEAR}-{sums}-{rate}": Choice(rate, sums) for rate, sums in product(RATES, SUMS)}
    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(lambda key: train(world, key, way, tries[key]), tries))
    figures = evaluated(world, [way.run(key, way.rounds) for key in tries])
    exact = {choice: figures[way.run(key, way.rounds)]["exact"] for key, choice in tries.items()}
    best = max(exact, key=lambda choice: (exact[choice], choice == Choice("0.002")))
    told = "; ".join(f"{arms.told(way.arm, choice)}: {value:.3f}" for choice, value in exact.items())
    return {key: chosen[one.arm] for key, one in WAYS.items()} | {NEAR: best}, told


def measured(world: World, chosen: Choices, choice: online.Choice) -> Figures:
    """KEY-roundN → exact, language, bits, and what had been paid until then: tokens sampled, tokens by the teacher, seconds."""
    for key, way in WAYS.items():
        train(world, key, way, chosen[key])
    figures = evaluated(world, [way.run(key, number) for key, way in WAYS.items() for number in way.numbers])
    [answered] = world.sql(ANSWERED)
    found = Figures()
    for key, way in WAYS.items():
        paid = {"sampled": 0.0, "teacher": float(answered["teacher"]), "seconds": 0.0}
        for number in way.numbers:
            pool = "demo" if number == 1 else f"evidence-{way.run(key, number - 1)}"
            [row] = world.sql(PAID.format(pool=pool, run=way.run(key, number)))
            paid = {name: paid[name] + float(row[name]) for name in paid}
            found[way.run(key, number)] = figures[way.run(key, number)] | paid
    for name, row in online.measured(world, choice).items():
        found[name] = row | {paid: row[paid] + float(answered[paid]) for paid in ("teacher", "seconds")}
    return found


# The first pool is labelled `demo`, a later one by the run that drew it; `answers` are bought once, with the first.
ANSWERED = """\
SELECT sum(tokens_out) AS teacher, sum(seconds) AS seconds FROM costs
WHERE stage = 'answers' AND recipe = 'demo' AND produced LIKE 'answers/%'"""
PAID = """\
WITH ran AS (SELECT seconds AS trained, from_json(slices, '["VARCHAR"]') AS slices FROM runs WHERE run = '{run}'),
     made AS (SELECT stage, model, tokens_out, costs.seconds AS cost, trained
              FROM costs, ran WHERE (recipe = 'demo' AND '{pool}' = 'demo' AND stage <> 'corpus')
              OR starts_with(split_part(produced, '/', 2), '{pool}-') OR (recipe = 'evidence' AND list_contains(slices, produced)))
SELECT sum(tokens_out) FILTER (stage = 'samples') AS sampled,
       sum(tokens_out) FILTER (stage = 'scores' AND model = 'run:demo-teacher') AS teacher,
       sum(cost) + first(trained) AS seconds FROM made"""


def lines() -> dict[str, tuple[str, int]]:
    """Key of a figure → its name in the table, and the updates until then."""
    found = {}
    for key, way in WAYS.items():
        for number in way.numbers if way.rounds <= 3 else (5, 10, 15):
            name = way.name if way.rounds == 1 else f"{way.name}: round {number}"
            found[way.run(key, number)] = name, number * way.steps
    long = online.POINTS[-1]
    for updates, point in ((online.UPDATES, online.UPDATES), (long, online.UPDATES), (long, long)):
        found[f"trl-{updates}-{point}"] = f"online GRPO (TRL), a run of {updates}", point
    return found


def rows(worlds: Sequence[Figures]) -> list[list[str]]:
    """A line a way and, where there are several, a round."""

    def of(key: str) -> list[float]:
        return [world[key]["exact"] for world in worlds]

    found = []
    for key, (name, updates) in lines().items():
        exact = of(key)
        told = [interval([world[key][paid] for world in worlds]).counted for paid in PAID_FOR]
        apart = ["" if base in (None, key) else difference(exact, of(base)).signed for base in (FIRST, held(key))]
        found.append([name, str(updates), str(interval(exact)), *apart, *told])
    return found


def held(key: str) -> str | None:
    """The run that learned as this one did, from one pool at a held rate.

    >>> held("copying-round2"), held("copying-held-round1"), held("trl-450-450")
    ('copying-held-round1', 'copying-held-round1', None)
    """
    way = f"{key.partition('-')[0]}-held"
    return WAYS[way].run(way, 1) if way in WAYS else None


def draw(worlds: Sequence[Figures]) -> None:
    """Exact match against what was paid: rounds of each way, and the online loop as it goes."""
    long = online.POINTS[-1]
    ways = {way.name: [way.run(key, n) for n in way.numbers] for key, way in WAYS.items() if way.rounds > 1}
    ways["online GRPO (TRL)"] = [f"trl-{long}-{point}" for point in online.POINTS]

    def curve(keys: Sequence[str], paid: str) -> list[tuple[float, Interval]]:
        return [(interval([w[k][paid] for w in worlds]).mean, interval([w[k]["exact"] for w in worlds])) for k in keys]

    told = {"sampled": "tokens sampled", "teacher": "tokens by the teacher", "seconds": "seconds"}
    panels = {told[paid]: {name: curve(keys, paid) for name, keys in ways.items()} for paid in PAID_FOR}
    curves("cost", panels, "exact match")


TOLD = ("copying", "replaying", "mixing", NEAR)
PAID_FOR = ("sampled", "teacher", "seconds")
FIRST = "mixing-round1"
HEAD = [
    "way",
    "updates",
    "exact match",
    "− the hybrid's first round",
    "− the same on one pool, rate held",
    "tokens sampled",
    "tokens by the teacher",
    "seconds",
]


def main(words: Sequence[str]) -> int:
    """Train, evaluate, count, print."""
    options = parser(__doc__, range(21, 26)).parse_args(words)
    (chosen, tries), (choice, online_tries) = tuned(), online.chosen()
    worlds = side_by_side(options.seeds, lambda world: measured(world, chosen, choice))
    told = "; ".join(f"{WAYS[key].name}: {arms.told(WAYS[key].arm, chosen[key])}" for key in TOLD)
    note = f"Rates and sums: {told}; TRL: {choice[0]}, rewards scaled by {choice[1]}. Tries on world {TUNING}, each to update 150: "
    note += f"a pool each 10 updates, {tries}; TRL, {online_tries}. "
    tell({"rounds": table(HEAD, rows(worlds))}, options, note)
    if options.write:
        draw(worlds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
