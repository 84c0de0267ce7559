"""The edge of a command: what a user types, and what is answered when it is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.command import CONF, Command
from data.config import Recipe
from data.refusal import Refusal
from data.settings import field_docs, nested
from data.structured import in_mapping
from factory.config import FactoryRecipe
from trainer.config import TrainerRecipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))


@pytest.fixture
def composed():
    """A command that only keeps the recipes it was given."""
    kept: list[Any] = []
    return Command("factory", FactoryRecipe, kept.append, "Makes tables.", ["python -m factory recipe=demo"]), kept


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", [FactoryRecipe, TrainerRecipe])
def test_every_recipe_composes_for_both_commands(recipe, kind):
    kept: list[Any] = []
    section = "factory" if kind is FactoryRecipe else "trainer"
    assert Command(section, kind, kept.append, "", []).main([f"recipe={recipe}"]) == 0
    assert kept[0].name == recipe and isinstance(kept[0], kind)


def test_the_recipe_that_reaches_the_body_is_frozen(composed):
    command, kept = composed
    command.main(["recipe=demo"])
    with pytest.raises(AttributeError):
        kept[0].seed = 3
    with pytest.raises(AttributeError):
        kept[0].teacher.path = "elsewhere"


@pytest.mark.parametrize(
    ("key", "expression"),
    [
        ("reward", "-1*(agreement)"),
        ("reward", "zscore_group(teacher_loglik) + 0.5*clip(language, 0, 1)"),
        ("where", "agreement = 1 and source = 'sample'"),
        ("where", "n_tokens between 1 and 9"),
        ("reward", "CASE WHEN language > 0.5 THEN 1 ELSE -1 END"),
        ("reward", r"CASE WHEN regexp_matches(text, '\d+\s\\') THEN 1 ELSE 0 END"),
        ("where", r"text <> 'a\' AND text NOT LIKE '%\\''%'"),
    ],
)
def test_expressions_are_used_as_they_are_typed(composed, key, expression):
    command, kept = composed
    assert command.main(["recipe=demo", f"{key}={expression}"]) == 0
    assert getattr(kept[0], key) == expression


def test_keys_of_the_commands_own_section_stand_at_its_root(composed):
    command, kept = composed
    assert command.main(["recipe=demo", "stages=[rewards]", "engine.batch_tokens=77", "sampling.n=4"]) == 0
    assert (kept[0].factory.stages, kept[0].factory.engine.batch_tokens, kept[0].sampling.n) == (["rewards"], 77, 4)


def test_a_component_is_added_from_the_command_line(composed):
    command, kept = composed
    assert command.main(["recipe=demo", "components.words={use: length, unit: words}"]) == 0
    assert kept[0].components["words"] == {"use": "length", "unit": "words"}
    assert "agreement" in kept[0].components


def test_a_sweep_runs_every_combination(composed):
    command, kept = composed
    assert command.main(["-m", "recipe=demo", "seed=1,2", "sampling.n=2,4"]) == 0
    assert [(r.seed, r.sampling.n) for r in kept] == [(1, 2), (1, 4), (2, 2), (2, 4)]


WRONG = [
    (["recipe=demmo"], "did you mean 'demo'?"),
    ([], "no recipe given"),
    (["recipe=demo", "shard_group=3"], "did you mean 'shard_groups'?"),
    (["recipe=demo", "factory.shard_group=3"], "did you mean 'shard_groups'?"),
    (["recipe=demo", "student.pth=x"], "did you mean 'path'?"),
    (["recipe=demo", "engine=hff"], "did you mean 'hf'?"),
    (["recipe=demo", "sampling.n=many"], "sampling.n: Value 'many'"),
    (["recipe=demo", "+note=x"], "no override of the form key=value"),
    (["recipe=demo", "~reward"], "no override of the form key=value"),
    (["recipe=demo", "seed=[1"], "no viable alternative"),
    (["-m", "recipe=demo,demmo"], "did you mean 'demo'?"),
]


@pytest.mark.parametrize(("argv", "says"), WRONG)
def test_a_mistake_is_answered_by_two_lines_and_code_2(composed, capsys, argv, says):
    command, kept = composed
    assert command.main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and error.count("\n") == 1 and "next: python -m factory" in error
    assert not kept


def test_a_refusal_of_the_body_ends_a_sweep_with_code_2(capsys):
    def refuse(recipe: Any) -> None:
        raise Refusal("the pool is empty", "python -m factory recipe=demo")

    assert Command("factory", FactoryRecipe, refuse, "", []).main(["-m", "recipe=demo", "seed=1,2"]) == 2
    assert capsys.readouterr().err == "error: the pool is empty\n       next: python -m factory recipe=demo\n"


def test_debug_shows_the_traceback():
    def refuse(recipe: Any) -> None:
        raise Refusal("the pool is empty", "python -m factory recipe=demo")

    with pytest.raises(Refusal, match="empty"):
        Command("factory", FactoryRecipe, refuse, "", []).main(["--debug", "recipe=demo"])


def test_a_recipe_in_a_folder_of_ones_own_is_found(composed, tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\ndefaults: [demo, _self_]\nname: mine\n")
    command, kept = composed
    assert command.main(["--config-dir", str(tmp_path), "recipe=mine"]) == 0
    assert kept[0].name == "mine" and kept[0].components


@pytest.mark.parametrize("arm", sorted(path.stem for path in (CONF / "arm").glob("*.yaml")))
@pytest.mark.parametrize(("section", "kind"), [("factory", FactoryRecipe), ("trainer", TrainerRecipe)])
def test_an_arm_names_its_run_whatever_the_recipe_leaves_to_the_defaults(tmp_path, arm, section, kind):
    (tmp_path / "recipe").mkdir()
    lines = [
        "# @package _global_",
        f"defaults: [_self_, /arm: {arm}]",
        "name: mine",
        "student: {path: a}",
        "prompts: {path: b}",
    ]
    (tmp_path / "recipe" / "mine.yaml").write_text("\n".join(lines))
    kept: list[Any] = []
    assert Command(section, kind, kept.append, "", []).main(["--config-dir", str(tmp_path), "recipe=mine"]) == 0
    if kind is TrainerRecipe:
        middle = "" if arm.startswith("bc") else "-topr-None"
        assert kept[0].trainer.run == f"{arm}{middle}-pt0.1-lr1e-05"


def test_a_section_of_the_other_command_keeps_what_can_be_filled_in(composed, tmp_path):
    (tmp_path / "recipe").mkdir()
    lines = [
        "# @package _global_",
        "name: mine",
        "student: {path: a}",
        "prompts: {path: b}",
        "trainer:",
        "  run: mine-${trainer.losses.leash.rate}",  # a default of the trainer's
        "  steps: ${seed}",
        "  losses: {rl: 0.5, bc: '${trainer.losses.rl}', pt: '${trainer.losses.kl}'}",
        "  stop: [{metric: probe/exact, patience: '${seed}'}]",
    ]
    (tmp_path / "recipe" / "mine.yaml").write_text("\n".join(lines))
    command, kept = composed
    assert command.main(["--config-dir", str(tmp_path), "recipe=mine", "seed=3"]) == 0
    stop = [{"metric": "probe/exact", "patience": 3}]
    assert kept[0].trainer == {"steps": 3, "losses": {"rl": 0.5, "bc": 0.5}, "stop": stop}


def test_what_points_to_nothing_anywhere_is_refused_by_either_command(composed, tmp_path, capsys):
    (tmp_path / "recipe").mkdir()
    lines = ["# @package _global_", "defaults: [demo, _self_]", "trainer: {run: '${student.pth}'}"]
    (tmp_path / "recipe" / "mine.yaml").write_text("\n".join(lines))
    command, _ = composed
    assert command.main(["--config-dir", str(tmp_path), "recipe=mine"]) == 2
    assert "Interpolation key 'student.pth' not found" in capsys.readouterr().err


def test_an_unknown_key_in_a_recipe_names_the_nearest(composed, tmp_path, capsys):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\nname: mine\nsampling: {temprature: 1}\n")
    command, _ = composed
    assert command.main(["--config-dir", str(tmp_path), "recipe=mine"]) == 2
    assert "did you mean 'temperature'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [FactoryRecipe, TrainerRecipe])
def test_every_setting_has_a_line_that_says_what_it_is(kind):
    for cls in nested(kind):
        assert set(field_docs(cls)) >= set(cls.__dataclass_fields__), cls


@pytest.mark.parametrize("kind", [FactoryRecipe, TrainerRecipe])
def test_no_dataclass_of_settings_has_more_than_twelve_fields_of_its_own(kind):
    shared = set(Recipe.__dataclass_fields__)
    for cls in set(nested(kind)) - {kind}:
        assert len(set(cls.__dataclass_fields__) - shared) <= 12, cls


@pytest.mark.parametrize("section", ["factory", "trainer"])
def test_help_loads_nothing_heavy(section):
    code = (
        f"import sys, {section}.__main__ as m; assert m.COMMAND.main(['--help']) == 0;"
        "print({'torch', 'transformers', 'datasets', 'duckdb', 'polars', 'hydra', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("set()")
    assert "agreement" in done.stdout and "sampling.temperature" in done.stdout
    _, empty, head, example, *_ = done.stdout.splitlines()
    assert (empty, head) == ("", "Examples:") and example.startswith(f"  python -m {section} recipe=")


def test_mappings_are_found_at_every_depth():
    assert in_mapping(Recipe, ["prompts", "columns", "messages"])
    assert in_mapping(FactoryRecipe, ["factory", "corpus", "plain", "path"])
    assert not in_mapping(Recipe, ["prompts", "path"])
    assert not in_mapping(Recipe, ["components"])


@pytest.mark.parametrize("text", ["'stop' = finish_reason", "'a' = 'b'", '"my label" + 1', "'in quotes for Hydra'"])
def test_an_expression_may_begin_with_a_quote(composed, text):
    command, kept = composed
    assert command.main(["recipe=demo", f"where={text}"]) == 0
    assert kept[0].where == (text if text != "'in quotes for Hydra'" else "in quotes for Hydra")


def test_a_model_of_conf_is_chosen_by_its_file(composed):
    command, kept = composed
    assert command.main(["recipe=gemma27b_to_bloomz7b", "model.teacher=gpt35", "model@student=llama2_7b"]) == 0
    assert (kept[0].teacher.path, kept[0].student.path) == ("gpt-3.5-turbo", "meta-llama/Llama-2-7b-chat-hf")
    assert kept[0].factory.endpoints["openai"].prices["gpt-3.5-turbo"].output > 0


def test_a_model_of_conf_is_refused_where_the_recipe_names_its_own(composed, capsys):
    command, _ = composed
    assert command.main(["recipe=demo", "model.teacher=gpt4"]) == 2
    assert "takes no model of conf/model as teacher" in capsys.readouterr().err
    assert command.main(["recipe=gpt4_to_gptsw3", "model.teacher=gpt34"]) == 2
    assert "no model named 'gpt34': did you mean" in capsys.readouterr().err.replace("do you mean", "did you mean")


def test_an_inherited_component_is_taken_away(composed):
    command, kept = composed
    assert command.main(["recipe=demo", "components.language=null"]) == 0
    assert set(kept[0].components) == {"agreement", "teacher_loglik"}
