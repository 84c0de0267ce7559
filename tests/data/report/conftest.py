"""A lake whose every text would be code, with token rewards, teacher scores, two runs that differ, and the student's tokenizer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data import Lake, Slice
from data.fingerprint import tokenizer_fingerprint
from data.keys import id64, prompt_id
from data.report.source import Source

sys.path.append(str(Path(__file__).parents[1] / "human"))

Publish = Callable[..., Slice]
SCRIPT = "<script>window.ran = 1</script>"
TEXTS = [SCRIPT, '"><img src=x onerror="window.ran = 2">', "</div></section><h2>ólavsøka", "a & b &lt; c", "{{ 7 * 7 }} {% raw %}",
         "\x00\x1b[31m\u202e", "']]>--><!-- ", "x" * 400]  # fmt: skip
LABEL = '"><b onclick=alert(1)>komponent'
GROUPS, SIZE = 6, 4


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of bytes: a letter such as ó is two tokens; id 256 ends a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    folder = tmp_path_factory.mktemp("runs") / "first" / "final"
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory, publish: Publish, tokenizer_folder: Path) -> Source:
    """What the report reads of that lake."""
    from tokenizers import Tokenizer

    lake = Lake.open(tmp_path_factory.mktemp("hostile") / "lake")
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    encoded = [[*tokenizer.encode(text).ids, 256] for text in TEXTS]
    samples = _pool(lake, publish, encoded)
    model = {"model_id": ["student"], "name": ["run:first"], "tokenizer": [tokenizer_fingerprint(tokenizer_folder)]}
    publish(lake, "models", [model], label="first")
    _trained(lake, samples)
    _evaluated(lake, publish)
    return Source(lake, tokenizer_folder.parents[1])


def _pool(lake: Lake, publish: Publish, encoded: list[list[int]]) -> Slice:
    asked = [[{"role": "user", "content": f"{SCRIPT} nr. {i}"}] for i in range(GROUPS)]
    ids, n = [prompt_id(messages) for messages in asked], GROUPS * SIZE
    prompts = {"prompt_id": ids, "messages": asked, "split": ["train"] * GROUPS}
    parent = publish(lake, "prompts", [prompts], label="<script>alert(1)")
    groups = {"group_id": [id64("p", i) for i in ids], "prompt_id": ids, "policy": ["student"] * GROUPS}
    shown = {"prompt_token_ids": [[1]] * GROUPS}
    drawn = publish(lake, "groups", [groups | shown], label="p", parents=(parent,), models={"policy": "student"})
    keys = {"group_id": [id64("p", i) for i in ids for _ in range(SIZE)], "sample_index": [*range(SIZE)] * GROUPS}
    rows = [i % len(TEXTS) for i in range(n)]
    tokens = {"token_ids": [encoded[i] for i in rows], "n_tokens": [len(encoded[i]) for i in rows]}
    said = {"text": [TEXTS[i] for i in rows], "finish_reason": ["stop"] * n, "origin": ["student"] * n}
    samples = publish(lake, "samples", [keys | tokens | said], label="p", parents=(drawn,))
    values = {"value": [float(i % 5) for i in range(n)], "valid": [True] * n}
    by_token = {"values": [[i % 3 - 1.0] * len(encoded[row]) for i, row in enumerate(rows)]}
    publish(lake, "rewards", [keys | values | by_token], label=LABEL, parents=(samples,))
    surprised = [[-0.1 * (t % 60) for t in range(len(encoded[i]))] for i in rows]
    scores = {"scorer": ["teacher"] * n, "logprobs": surprised, "total": [sum(row) for row in surprised]}
    publish(lake, "scores", [keys | scores], label="p-teacher", parents=(samples,), models={"scorer": "teacher"})
    return samples


def _evaluated(lake: Lake, publish: Publish) -> None:
    for policy in ("first", SCRIPT):
        shared = {"policy": [policy], "model_id": [policy], "benchmark": [SCRIPT], "item": ["0"]}
        publish(lake, "evaluations", [shared | {"metrics": [[("exact", 1.0)]]}], label="r", content=policy)


def _trained(lake: Lake, samples: Slice) -> None:
    reward = '"' + LABEL.replace('"', '""') + '"'
    shared: dict[str, Any] = {"sampling": {"n": SIZE}, "components": {LABEL: {"use": "length"}}, "reward": reward}
    for number, (run, rate) in enumerate((("first", 0.1), ("second", 0.2))):
        trainer = {"objective": "grpo", "optimiser": {"lr": rate}, "run": run, "note": SCRIPT}
        row = {
            "run": run, "recipe": SCRIPT, "status": "finished", "reason": SCRIPT, "steps": 20, "seconds": 3.0, "model_id": run,
            "configuration": json.dumps(shared | {"trainer": trainer}), "configuration_hash": "h",
            "slices": json.dumps([samples.path]), "created_at": datetime(2026, 1, 1 + number, tzinfo=UTC),
        }  # fmt: skip
        lake.append("runs", pa.Table.from_pylist([row]), run)
        drift = {"token_ess": 0.9 - number * 0.5, "token_kl": 0.01, "clipped": 0.0, "broken": 0.0, "sequence_ess": 0.9}
        points = [
            (f"drift/{name}", step, value if step >= 10 else 0.3) for name, value in drift.items() for step in range(20)
        ]
        points += [(SCRIPT, step, step / (1 + number)) for step in range(200)]
        rows = [{"run": run, "step": step, "name": name, "value": value} for name, step, value in points]
        lake.append("metrics", pa.Table.from_pylist(rows), run)
