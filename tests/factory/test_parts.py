"""A part of a lake, copied by its label: verified, found by the factory without the teacher, trained from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data import Lake
from data.transfer import transfer
from data.verify import verify
from factory.config import CorpusSource, FactoryRecipe

STAGES = "stages=[prompts,answers,samples,scores,soft_targets,rewards,selections,corpus]"
HYBRID = ("steps=2", "replay.prompts=4", "replay.truncated=keep", "replay.corpus_tokens=16", "replay.answers=2")


@pytest.fixture
def recipe(recipe: FactoryRecipe, change: Callable[..., FactoryRecipe], tmp_path: Path) -> FactoryRecipe:
    """A component that compares with the teacher's answers, one of its scores, a corpus, soft targets."""
    rows = [{"text": f"the boat number {i} sails to the island"} for i in range(12)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe.components["agreement"] = {"use": "agreement"}
    return change(
        recipe,
        reward="loglik + agreement + chrf",
        where="length > 0",
        corpus={"plain": CorpusSource(path=str(tmp_path / "plain.jsonl"), held_out=0.3)},
    )


@pytest.fixture
def trained(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`trained(lake, run, …)`: `python -m trainer` of the same recipe in this process; groups, best-of-N and a corpus."""
    from trainer.__main__ import COMMAND

    path = tmp_path / "conf/recipe/tiny.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("trainer: null\n", ""), encoding="utf-8")

    def go(lake: str, run: str, *words: str) -> tuple[int, str]:
        losses = "losses={rl: 1, bc: 1, pt: 0.1, kl: 0.02}"
        given = ["recipe=tiny", f"lake={lake}", f"run={run}", *HYBRID, losses, *words]
        code = COMMAND.main([*given, "--config-dir", str(tmp_path / "conf")])
        out, err = capfd.readouterr()
        return code, out + err

    return go


def _finds_all(command: Callable[..., tuple[int, str, str]], lake: str, *words: str) -> None:
    code, out, err = command(f"lake={lake}", STAGES, *words)
    assert code == 0, out + err
    assert all(line.endswith("found, nothing to do") for line in out.splitlines() if line.partition("/")[2]), out
    assert out.count("found, nothing to do") >= 15, out


@pytest.mark.slow
def test_a_part_is_found_whole_by_the_factory_without_a_teacher_and_trained_from(
    recipe: FactoryRecipe,
    command: Callable[..., tuple[int, str, str]],
    trained: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    soft = "soft_targets={of: answers, kind: top_k, k: 4}"
    for name in ("tiny", "other"):  # the same prompts, answers and samples: the second's slices name the first's files
        code, out, err = command(f"name={name}", STAGES, soft)
        assert code == 0, out + err
    code, said = trained(recipe.lake, "whole")
    assert code == 0, said
    lake = Lake.open(recipe.lake)
    teacher = Path(recipe.teacher.path)
    kept = teacher.rename(teacher.with_name("kept away"))
    try:
        for label in ("tiny", "other"):
            part = Lake.open(tmp_path / f"part-{label}")
            transfer(lake, part, labels=[label])
            assert verify(part).faults == [] and {s.label for s in part.slices("samples")} == {label}
            _finds_all(command, str(part.root), f"name={label}", soft)
            code, said = trained(str(part.root), f"from-{label}", f"name={label}")
            assert code == 0, said
    finally:
        kept.rename(teacher)
    part = Lake.open(tmp_path / "part-tiny")
    assert "whole" in {path.stem for path in part.journal("runs")}, "the part's own run goes with it"
    assert part.sql("SELECT DISTINCT recipe FROM costs").column(0).to_pylist() == ["tiny"]


def test_a_part_that_is_pulled_from_s3_is_trained_from(
    recipe: FactoryRecipe,
    command: Callable[..., tuple[int, str, str]],
    trained: Callable[..., tuple[int, str]],
    tmp_path: Path,
    s3: str,
) -> None:
    code, out, err = command(STAGES.replace("soft_targets,", ""))
    assert code == 0, out + err
    transfer(Lake.open(recipe.lake), Lake.open(s3), labels=["tiny"])
    shutil.rmtree(recipe.lake)
    home = Lake.open(tmp_path / "home")
    transfer(Lake.open(s3), home, labels=["tiny"])
    assert verify(home).faults == []
    for where, run in ((s3, "there"), (str(home.root), "here")):
        code, said = trained(where, run)
        assert code == 0, said
