"""Where replay adds to copying the best: the same three arms under settings that make copying harder; a table of docs/evidence.md.

    python tests/bench/evidence/pays.py [--seeds 11,12] [--write]

Each setting changes one thing of the demo's recipe: how many samples there are, what may be copied, what the reward knows, whether
the teacher is right, which policy drew the pool. Rates and sums are those that arms.py chooses; nothing is tuned for a setting."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import arms
from arms import Arm, Choice
from page import parser, table, tell
from plot import dots
from seeds import Interval, difference, interval
from worlds import TUNING, World, evaluated, made, side_by_side, write

ARMS = {"bc": Arm("bc_best"), "replay": Arm("replay", "topr"), "hybrid": Arm("hybrid", "topr")}
CHRF = "components.chrf={use: similarity, metric: chrf}"  # against the teacher's answers
WRONG = 0.3  # share of the teacher's answers that say another value
SAMPLES_ONLY = "where=agreement = 1 and language = 1 and source = 'sample'"
WARM_STEPS = 30


@dataclass(frozen=True)
class Setting:
    """What is changed: words that factory and trainer share."""

    name: str
    words: tuple[str, ...] = ()
    stages: str = ""
    """What the factory must make for it; nothing where the demo's pool holds all of it."""
    steps: int = 150
    recipe: str = "evidence"


SETTINGS = {
    "demo": Setting("as in the demo"),
    "few": Setting("two samples a prompt", ("sampling.n=2", "pool=few"), "samples,scores,rewards"),
    "many": Setting("32 samples a prompt", ("sampling.n=32", "pool=many"), "samples,scores,rewards"),
    "own": Setting("only the student's samples are copied", (SAMPLES_ONLY,)),
    "free": Setting("no filter", ("where=null",)),
    "graded": Setting(
        "no filter, a graded reward (chrF to the teacher's answer + language)",
        ("where=null", CHRF, "reward=chrf + 0.5*language"),
        "rewards",
    ),
    "wrong": Setting(
        "three in ten of the teacher's answers are wrong",
        (),
        "import,samples,scores,rewards",
        recipe="evidence_wrong",
    ),
    "warm": Setting(
        f"{WARM_STEPS} updates of BC, then a pool, then the arm",
        ("policy=run:pays-warm", "pool=warm"),
        "samples,scores,rewards",
        150 - WARM_STEPS,
    ),
}


def run_name(setting: str, arm: str) -> str:
    """Of one arm under one setting."""
    return "-".join(word for word in ("pays", setting, arm, ARMS[arm].objective) if word)


def measured(world: World, chosen: Mapping[Arm, Choice]) -> dict[str, dict[str, float]]:
    """Run → figures on held-out questions."""
    world.trainer("recipe=evidence", "arm=bc_best", f"steps={WARM_STEPS}", "run=pays-warm")
    mistaken(world.sql(ANSWERS), world.seed, world.folder / "wrong.jsonl")
    for key, setting in SETTINGS.items():
        if setting.stages:
            world.factory(f"recipe={setting.recipe}", *setting.words, f"stages=[{setting.stages}]")
        for arm, one in ARMS.items():
            words = [
                *arms.words_of(one, chosen[one]),
                *setting.words,
                f"steps={setting.steps}",
                f"run={run_name(key, arm)}",
            ]
            world.trainer(f"recipe={setting.recipe}", *words)
    found = evaluated(world, [run_name(key, arm) for key in SETTINGS for arm in ARMS])
    for row in world.sql(TOPICS):
        found[f"{row['policy']}/{row['topic']}"] = {"exact": row["exact"]}
    return found


def mistaken(answers: Sequence[Mapping[str, str]], seed: int, path: Path) -> None:
    """The teacher's answers (prompt, text) as a file, WRONG of them with one value exchanged for another of its relation."""
    from data.demo.words import RELATIONS

    other = {}
    for pairs in (list(relation.values.items()) for relation in RELATIONS):
        for pair in pairs:
            other |= {key: [text for others in pairs if others != pair for text in others] for key in pair}
    draw = random.Random(seed)
    rows = []
    for row in answers:
        said = row["text"].split()
        places = [i for i, word in enumerate(said) if word in other]
        if places and draw.random() < WRONG:
            place = draw.choice(places)
            said[place] = draw.choice(other[said[place]])
        rows.append({"messages": row["prompt"], "answer": " ".join(said)})
    write(path, rows)


ANSWERS = """\
SELECT first(p.messages[1].content) AS prompt, first(a.text) AS text FROM answers a JOIN prompts p USING (prompt_id)
WHERE a.label = 'demo' GROUP BY prompt_id ORDER BY prompt_id"""


TOPICS = """\
SELECT policy, topic, avg(metrics['exact']) AS exact FROM evaluations
JOIN (SELECT DISTINCT prompt_id, topic FROM prompts) ON prompt_id = item
WHERE benchmark = 'held_out' AND evaluations.label = 'evidence' AND policy LIKE 'pays-demo-%' GROUP BY ALL"""
PARTS = {"single": "as in the demo, single facts alone", "pair": "as in the demo, pairs alone: answers twice as long"}
Worlds = Sequence[dict[str, dict[str, float]]]


def names() -> dict[str, tuple[str, str]]:
    """Name of a line → its setting, and what stands behind the run where the line holds a part of the questions."""
    found = {}
    for key, setting in SETTINGS.items():
        found[setting.name] = key, ""
        if key == "demo":
            found |= {name: (key, f"/{topic}") for topic, name in PARTS.items()}
    return found


def rows(worlds: Worlds) -> list[list[str]]:
    """A line a setting: the three arms, and their differences from copying alone."""
    lines = []
    for name in names():
        told = [str(interval(exact(name, arm, worlds))) for arm in ARMS]
        lines.append([name, *told, *(apart(name, arm, worlds).signed for arm in ("replay", "hybrid"))])
    return lines


def exact(name: str, arm: str, worlds: Worlds) -> list[float]:
    """Exact match of a line's arm, world by world."""
    key, part = names()[name]
    return [world[run_name(key, arm) + part]["exact"] for world in worlds]


def apart(name: str, arm: str, worlds: Worlds) -> Interval:
    """What an arm has above copying alone."""
    return difference(exact(name, arm, worlds), exact(name, "bc", worlds))


HEAD = ["setting", "BC on best-of-N", "replay, `topr`", "hybrid, `topr`", "replay − BC", "hybrid − BC"]


def main(words: Sequence[str]) -> int:
    """Train, evaluate, print."""
    options = parser(__doc__, range(11, 16)).parse_args(words)
    chosen, _ = arms.tuned(made(TUNING))
    worlds = side_by_side(options.seeds, lambda world: measured(world, chosen))
    tell({"pays": table(HEAD, rows(worlds))}, options, "Exact match on held-out questions. ")
    if options.write:
        dots("pays", {name: apart(name, "hybrid", worlds) for name in names()}, "exact match: hybrid − BC", zero=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
