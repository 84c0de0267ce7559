"""New tokens from pieces against random ones, after 50 steps on real Faroese: the table of docs/tokenizer.md.

A Mistral of two million parameters first learns Danish, Icelandic and English, then gets 800 tokens learned on UD_Faroese-OFT,
started either way, and goes on for 50 steps at a fixed budget; bits per byte of held-out Faroese, by seed and learning rate. Reads
FAROESE_TEXT. Runs the project's own commands in a temporary folder. Refuses to measure without the text."""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "trainer" / "extension")]

from conftest import _write_model  # noqa: E402
from two_languages import World, bits_per_byte  # noqa: E402

SHAPE = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "sliding_window": 256, "max_position_embeddings": 512, "initializer_range": 0.02}  # fmt: skip
OTHER = ("lid/da.txt", "lid/is.txt", "lid/en.txt", "lid/nb.txt", "lid/nn.txt", "lid/sv.txt",
         "sib200/dan_Latn.train.tsv", "sib200/isl_Latn.train.tsv", "sib200/eng_Latn.train.tsv")  # fmt: skip
SEEDS, RATES = tuple(range(8)), ("1e-3", "3e-3")
FIRST, STEPS, BUDGET = 500, 50, "replay.corpus_tokens=1536"


def lines(name: str) -> list[str]:
    """Documents of a file below FAROESE_TEXT."""
    folder = ROOT / os.environ.get("FAROESE_TEXT", "../shared/faroese")
    if not (folder / name).is_file():
        raise SystemExit(f"no {name} in {folder}; next: FAROESE_TEXT=FOLDER")
    found = (folder / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[-1] for line in found[1:]] if name.endswith(".tsv") else found


def measured(world, student: str, seed: int, held_out: list[str], first: int = FIRST) -> list[dict[str, float | str]]:
    """One row a learning rate: bits per byte before, after extension and after training, from pieces and from random rows."""
    name = f"other-{seed}"
    assert world.trainer("other", student, f"run={name}", f"steps={first}", f"seed={seed}", BUDGET) == 0
    world.factory("faroese", f"run:{name}")
    before, rows = (
        bits_per_byte(world.final(name), held_out),
        [dict[str, float | str](seed=seed, lr=rate) for rate in RATES],
    )
    for start in ("pieces", "random"):
        made = f"{start}-{seed}"
        given = (f"run={made}", "tokens=800", "min_count=3", f"start={start}", f"seed={seed}")
        assert world.extend("faroese", f"run:{name}", *given) == 0
        world.factory("faroese", f"run:{made}")
        at_first = bits_per_byte(world.final(made), held_out)
        figures = world.record(made)["configuration"]["extend"]
        for row, rate in zip(rows, RATES, strict=True):
            run = f"{made}-{rate}"
            phases = "losses.phases=[{steps: 15, trainable: embeddings}]"
            given = (f"run={run}", f"steps={STEPS}", f"seed={seed}", f"optimiser.lr={rate}", phases, BUDGET)
            assert world.trainer("faroese", f"run:{made}", *given) == 0
            row |= {"before": before, f"{start} at first": at_first, start: bits_per_byte(world.final(run), held_out)}
            row["tokens"] = figures["tokens_per_byte_after"] / figures["tokens_per_byte_before"]
    return rows


def main(arguments: list[str]) -> int:
    """Measure and print a Markdown table; `--json FILE` keeps the rows."""
    other = [line for name in OTHER for line in lines(name)]
    text, rows = list(dict.fromkeys(lines("ud/ud_faroese_oft.txt"))), []
    held_out = text[::8]
    faroese = [line for n, line in enumerate(text) if n % 8]
    with tempfile.TemporaryDirectory() as held:
        os.environ["XDG_CACHE_HOME"] = f"{held}/cache"
        for seed in SEEDS:
            world = World(Path(held) / str(seed))
            world.folder.mkdir()
            world.corpus("other", other, lines("lid/de.txt")[:20])
            world.corpus("faroese", faroese, held_out)
            student = world.folder / "student"
            _write_model("mistral", student, {"text": other, "tokens": 2000, "seed": seed, **SHAPE})
            began = time.monotonic()
            with contextlib.redirect_stdout(io.StringIO()):
                world.factory("other", str(student))
                rows += measured(world, str(student), seed, held_out)
            print(
                f"seed {seed}: {time.monotonic() - began:.0f} s",
                rows[-2:],
                flush=True,
            )
    if arguments[:1] == ["--json"]:
        Path(arguments[1]).write_text(json.dumps(rows), encoding="utf-8")
    print(table(rows))
    return 0


def table(rows: list[dict[str, float | str]]) -> str:
    """Markdown; the last column is the mean difference and how many of the seeds agree with it."""
    head = [
        "learning rate",
        "seed",
        "other languages only",
        "pieces, untrained",
        "random, untrained",
        "pieces",
        "random",
        "difference",
    ]
    told = [head, ["---"] * len(head)]
    for rate in RATES:
        own = [row for row in rows if row["lr"] == rate]
        for row in own:
            numbers = [row[k] for k in ("before", "pieces at first", "random at first", "pieces", "random")]
            told.append([rate, str(row["seed"]), *(f"{n:.3f}" for n in [*numbers, row["pieces"] - row["random"]])])
        differences = [row["pieces"] - row["random"] for row in own]
        told.append([rate, "mean", "", "", "", "", "", f"{statistics.mean(differences):.3f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
