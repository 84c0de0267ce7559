"""A sweep before its first job and after its last, and what a command says when a name or a component is not what it seems."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import COMMAND
from trainer.components import hydra_text
from trainer.config import TrainerRecipe

SHORT = ["steps=1", "losses.bc=0", "losses.pt=0", "losses.kl=0"]


def arguments(made: Any, *overrides: str) -> list[str]:
    command = made.command(f"lake={made.recipe.lake}", f"runs={made.recipe.runs}", *overrides)
    return list(command[command.index("trainer") + 1 :])


def refused(made: Any, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, list[str]]:
    """What is refused, and the next command as a shell divides it."""
    assert COMMAND.main(arguments(made, *words)) == 2
    what, _, command = capsys.readouterr().err.partition("next: ")
    return what, shlex.split(command)


def test_one_name_for_several_jobs_is_refused_before_the_first_and_the_next_command_runs(made, capsys):
    what, command = refused(made, capsys, "-m", *SHORT, "run=swp", "seed=1,2")
    assert "run=swp is the name of 2 jobs" in what and not Path(made.recipe.runs).exists()
    assert command[:4] == ["python", "-m", "trainer", "-m"] and command[-1] == "run=swp-${seed}"
    assert COMMAND.main(command[3:]) == 0
    assert sorted(path.parent.name for path in Path(made.recipe.runs).glob("*/run.json")) == ["swp-1", "swp-2"]


def test_the_runs_of_a_sweep_over_values_that_are_no_names_are_left_to_name_themselves(made, capsys):
    _, command = refused(made, capsys, "-m", *SHORT, "run=swp", "replay.prompts=1,2")
    assert not [word for word in command if word.startswith("run=")] and "replay.prompts=1,2" in command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective=grpo,seq_tsi"], "did you mean 'seq_tis'"),
        (["trackers=[],[wandbb]"], "wandbb"),
        (["stop=[],[{metric: x}]"], "no above, no below"),
    ],
)
def test_a_mistake_in_the_last_job_is_refused_before_the_first_trains(made, capsys, words, said):
    what, _ = refused(made, capsys, "-m", *SHORT, *words)
    assert said in what and not Path(made.recipe.runs).exists()


def test_a_sweep_ends_with_a_table_and_says_a_note_once(made, capsys):
    probe = ["probe.every=1", "probe.max_tokens=3"]
    assert COMMAND.main(arguments(made, "-m", *SHORT, *probe, "objective=grpo,seq_tis")) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line for line in lines if re.match(r"\[\d/2\] ", line)] == [
        "[1/2] objective=grpo",
        "[2/2] objective=seq_tis",
    ]
    assert re.match(r"run +overrides +last figures +seconds", lines[-3])
    for line, objective in zip(lines[-2:], ("grpo", "seq_tis"), strict=True):
        assert re.match(rf"tiny-\w{{8}} +objective={objective} +probe/\S+ \S+ .* +\d+\.\d$", line), line
    assert sum(line.startswith("memory") or "GiB" in line for line in lines) <= 1, out


def test_a_run_under_another_configuration_says_what_differs(made, capsys):
    assert COMMAND.main(arguments(made, *SHORT, "run=first")) == 0
    what, command = refused(made, capsys, *SHORT[1:], "run=first", "steps=5", "seed=3")
    assert "exists under another configuration: seed 0 → 3, steps 1 → 5" in what
    assert command[-1] == "run=ANOTHER_NAME" and "steps=5" in command and "rm" not in command
    assert "run first exists\n" in refused(made, capsys, *SHORT, "run=first")[0]
    shutil.rmtree(made.lake.root / "rewards" / made.lake.slices("rewards", label="length")[0].path.partition("/")[2])
    record = Path(made.recipe.runs) / "first" / "run.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps(values | {"configuration_hash": "0"}))
    assert "other slices or weights" in refused(made, capsys, *SHORT, "run=first")[0]


def test_a_component_of_the_lake_that_the_recipe_does_not_describe_is_described(made, capsys):
    assert "length" in made.recipe.components
    what, command = refused(made, capsys, *SHORT, "components.length=null", "reward=length", "run=own")
    assert "component length is in the lake (rewards/" in what
    assert command[-1] == "components.length={use: length, unit: tokens}" and "reward=length" in command
    assert COMMAND.main(command[3:]) == 0, capsys.readouterr().err


def test_the_description_of_a_component_is_read_as_it_was():
    from data.command import Command

    spec = {
        "use": "format",
        "pattern": "it's \\d+ {x}",
        "tags": ["<a>", "b c"],
        "end": "a\\\\",
        "quote": "\\\\'",
        "most": 3,
        "share": 0.5,
        "on": None,
    }
    kept: list[Any] = []
    command = Command("trainer", TrainerRecipe, kept.append, "", [])
    assert command.main(["recipe=demo", f"components.x={hydra_text(spec)}"]) == 0
    assert kept[0].components["x"] == spec


def test_drift_goes_on_with_the_words_of_the_run(made, capsys):
    from trainer.drift.__main__ import COMMAND as DRIFT

    still = [*SHORT, "run=near", "optimiser.lr=0", f"student.path={made.model}"]
    assert COMMAND.main(arguments(made, *still)) == 0
    capsys.readouterr()
    assert DRIFT.main([f"lake={made.recipe.lake}", f"runs={made.recipe.runs}", "run=near"]) == 0
    command = shlex.split(capsys.readouterr().out.partition("next: ")[2])
    assert command[:4] == ["python", "-m", "trainer", "recipe=tiny"] and "--config-dir" in command
    assert f"student.path={made.model}" in command and command[-2:] == ["run=ANOTHER_NAME", "steps=MORE"]
    assert command.count("run=ANOTHER_NAME") == 1 and "steps=1" not in command


def test_drift_says_which_folder_a_recipe_of_ones_own_needs_where_the_run_was_made_in_python(made, capsys):
    from trainer.drift.__main__ import COMMAND as DRIFT
    from trainer.loop import train

    train(made.with_(run="api", losses__bc=0.0, losses__pt=0.0, losses__kl=0.0, steps=1))
    capsys.readouterr()
    assert DRIFT.main([f"lake={made.recipe.lake}", f"runs={made.recipe.runs}", "run=api"]) == 0
    assert "with the --config-dir that has recipe/tiny.yaml" in capsys.readouterr().out
