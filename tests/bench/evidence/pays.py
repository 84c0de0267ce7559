"""Where replay adds to copying the best: the same three arms under settings that make copying harder; a table of docs/evidence.md.

    python tests/bench/evidence/pays.py [--seeds 11,12] [--write]

Each setting changes one thing of the demo's recipe: how many samples there are, what may be copied, what the reward knows, whether
the teacher is right, which policy drew the pool. Rates are the recipe's own and nothing is tuned."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from page import parser, table, tell
from plot import dots
from seeds import Interval, difference, interval
from worlds import World, evaluated, side_by_side

ARMS = {
    "bc": ("arm=bc_best",),
    "replay": ("arm=replay", "objective=seq_tis"),
    "hybrid": ("arm=hybrid", "objective=seq_tis"),
}
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
        f"the pool is drawn after {WARM_STEPS} updates of BC",
        ("policy=run:pays-warm", "pool=warm"),
        "samples,scores,rewards",
        150 - WARM_STEPS,
    ),
}


def run_name(setting: str, arm: str) -> str:
    """Of one arm under one setting."""
    return f"pays-{setting}-{arm}"


def measured(world: World) -> dict[str, dict[str, float]]:
    """Run → figures on held-out questions."""
    there = world.trained()
    if "pays-warm" not in there:
        world.trainer("recipe=evidence", "arm=bc_best", f"steps={WARM_STEPS}", "run=pays-warm")
    mistaken(world.sql(ANSWERS), world.seed, world.folder / "wrong.jsonl")
    for key, setting in SETTINGS.items():
        left = [arm for arm in ARMS if run_name(key, arm) not in there]
        if left and setting.stages:
            world.factory(f"recipe={setting.recipe}", *setting.words, f"stages=[{setting.stages}]")
        for arm in left:
            words = [*ARMS[arm], *setting.words, f"steps={setting.steps}", f"run={run_name(key, arm)}"]
            world.trainer(f"recipe={setting.recipe}", *words)
    return evaluated(world, [run_name(key, arm) for key in SETTINGS for arm in ARMS])


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
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


ANSWERS = """\
SELECT first(p.messages[1].content) AS prompt, first(a.text) AS text FROM answers a JOIN prompts p USING (prompt_id)
WHERE a.label = 'demo' GROUP BY prompt_id ORDER BY prompt_id"""


def rows(worlds: Sequence[dict[str, dict[str, float]]]) -> list[list[str]]:
    """A line a setting: the three arms, and the hybrid's difference from copying alone."""
    lines = []
    for key, setting in SETTINGS.items():
        exact = {arm: [world[run_name(key, arm)]["exact"] for world in worlds] for arm in ARMS}
        told = [str(interval(exact[arm])) for arm in ARMS]
        lines.append([setting.name, *told, apart(key, worlds).signed])
    return lines


def apart(key: str, worlds: Sequence[dict[str, dict[str, float]]]) -> Interval:
    """Exact match of the hybrid minus that of copying alone, world by world."""
    hybrid, bc = ([world[run_name(key, arm)]["exact"] for world in worlds] for arm in ("hybrid", "bc"))
    return difference(hybrid, bc)


HEAD = ["setting", "BC on best-of-N", "replay, `seq_tis`", "hybrid", "hybrid − BC"]


def main(words: Sequence[str]) -> int:
    """Train, evaluate, print."""
    options = parser(__doc__, range(11, 16)).parse_args(words)
    worlds = side_by_side(options.seeds, measured)
    tell({"pays": table(HEAD, rows(worlds))}, options, "Exact match on held-out questions. ")
    if options.write:
        dots(
            "pays", {SETTINGS[key].name: apart(key, worlds) for key in SETTINGS}, "exact match: hybrid − BC", zero=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
