"""What keeps the language when the teacher's is weak: the language part of docs/evidence.md.

    python tests/bench/evidence/language.py [--seeds 11,12] [--write]

Half of the demo teacher's values are English. But in one arm, what may be copied is not filtered by language, so that only the
corpus (λ of L_PT), the reward's language component and the trainer's guard stand against it. 150 updates each, the recipe's own
rates; nothing is tuned."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from page import parser, table, tell
from seeds import difference, interval
from worlds import World, evaluated, side_by_side

RIGHT = "where=agreement = 1"  # right, in whatever language
ARMS = {
    "bc_raw": ("BC on raw answers", ("arm=bc_raw",)),
    "bc_right": ("BC on best-of-N that is right", ("arm=bc_best", RIGHT)),
    "hybrid_right": ("hybrid, best-of-N that is right", ("arm=hybrid", "objective=seq_tis", RIGHT)),
    "bc_filtered": ("BC on best-of-N that is right and Faroese", ("arm=bc_best",)),
    "replay": ("replay, `seq_tis`", ("arm=replay", "objective=seq_tis")),
}
UNGUARDED = ("bc_filtered", "replay")  # never meet an English word: there is nothing to guard
ONE_REWARD = ("bc_raw", "bc_filtered")  # what is copied does not depend on the reward's language
REWARDS = {"language": (), "none": ("reward=agreement + 0.02*teacher_loglik",)}
CORPUS = ("0", "0.1", "1")
GUARDED = "0.1"  # the λ that the guard is tried with
BOUND, EVERY = 0.95, 10
GUARDS = {
    "corpus": "{rl: 0, bc: 0, pt: 1}",
    "pool": "{bc: 0}",
}  # what is learned from while the language is below the bound
Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    arm: str
    reward: str
    corpus: str
    guard: str = ""

    @property
    def run(self) -> str:
        """Name of its run."""
        return f"language-{self.arm}-{self.reward}-pt{self.corpus}{f'-{self.guard}' if self.guard else ''}"

    @property
    def words(self) -> list[str]:
        """What is asked of the trainer, but for λ."""
        rule = f"{{metric: probe/language, below: {BOUND}, weights: {GUARDS[self.guard]}}}" if self.guard else ""
        # the table's own questions are not the guard's
        guard = ["probe.split=train", f"probe.every={EVERY}", f"probe.guard=[{rule}]"] if self.guard else []
        return [*ARMS[self.arm][1], *REWARDS[self.reward], *guard]


def cells() -> list[Cell]:
    """All lines."""
    found = []
    for arm in ARMS:
        for reward in ("language",) if arm in ONE_REWARD else REWARDS:
            found += [Cell(arm, reward, corpus) for corpus in CORPUS]
            guards = () if arm in UNGUARDED else GUARDS if arm.startswith("hybrid") else ("corpus",)
            found += [Cell(arm, reward, GUARDED, guard) for guard in guards]
    return found


def measured(world: World) -> Figures:
    """Run → figures on held-out questions."""
    sweeps: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells():
        sweeps.setdefault(tuple(cell.words), []).append(cell)
    for words, alike in sweeps.items():
        name = alike[0].run.replace(f"pt{alike[0].corpus}", "pt${trainer.losses.pt}")
        corpus = f"losses.pt={','.join(cell.corpus for cell in alike)}"
        world.trainer("-m", "recipe=evidence", *words, corpus, f"run={name}")
    return evaluated(world, [cell.run for cell in cells()])


def rows(worlds: Sequence[Figures]) -> list[list[str]]:
    """A line a cell: three figures, and what the cell's language is above that of the same arm with nothing that keeps it."""
    lines = []
    for cell in cells():
        values = {key: [world[cell.run][key] for world in worlds] for key in ("language", "exact", "bits")}
        bare = Cell(cell.arm, "language" if cell.arm in ONE_REWARD else "none", "0")
        apart = difference(values["language"], [world[bare.run]["language"] for world in worlds])
        told = [str(interval(values[key])) for key in values]
        reward = "–" if cell.arm in ONE_REWARD else {"language": "yes", "none": "no"}[cell.reward]
        said = "" if cell == bare else apart.signed
        lines.append([ARMS[cell.arm][0], reward, cell.corpus, cell.guard or "no", *told, said])
    return lines


HEAD = [
    "arm",
    "language in the reward",
    "λ of L_PT",
    "guard",
    "language",
    "exact match",
    "bits a byte",
    "language − bare",
]


def main(words: Sequence[str]) -> int:
    """Train, evaluate, print."""
    options = parser(__doc__, range(11, 16)).parse_args(words)
    note = (
        f"Guard: while the probe's language on training questions, every {EVERY} updates, is below {BOUND}, the corpus alone is "
        "learned, or nothing is copied and the pool and the corpus go on. "
    )
    tell({"language": table(HEAD, rows(side_by_side(options.seeds, measured)))}, options, note)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
