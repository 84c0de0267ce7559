"""Mistakes in what a user types: names, numbers, components and expressions, each as a row with what its sentence must say.

`refuses` (conftest.py) asserts the rest for each row: exit code 2, at most three lines on stderr, a next step that can be typed,
no half-written file, whatever was published unchanged, and a lake that verifies (or names the file that the row damaged)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest

Broken = Callable[[Any], object]


def rows(*found: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise over rows (name, how it is broken or None, command line, what it says…)."""
    cases = [pytest.param(broken, line, says, id=name) for name, broken, line, *says in found]
    return pytest.mark.parametrize(("broken", "line", "says"), cases)


def yaml(text: str | bytes) -> Broken:
    return lambda place: place.write("conf/recipe/tiny.yaml", text)


def lines(text: str) -> Broken:
    return lambda place: place.recipe(text)


@rows(
    ("recipe of the factory", None, "factory recipe=tinny", "no recipe named 'tinny'", "did you mean 'tiny'"),
    ("recipe of the trainer", None, "trainer recipe=tinny", "no recipe named 'tinny'", "did you mean 'tiny'"),
    ("no recipe", None, "trainer recipe", "no recipe given", "demo"),
    ("folder of recipes", None, "factory --config-dir nowhere", "no recipe named 'tiny'"),
    (
        "folder without a name",
        None,
        "trainer --config-dir",
        "--config-dir names no folder",
        "next: --config-dir FOLDER",
    ),
    ("shared key", None, "factory sampling.temprature=1", "'temprature' in Sampling", "did you mean 'temperature'"),
    ("the trainer's key", None, "trainer losses.bx=1", "'bx' in Losses", "did you mean 'bc'"),
    ("the factory's key", None, "factory shard_group=1", "did you mean 'shard_groups'"),
    ("key in the recipe's file", lines("rewards: chrf"), "trainer", "'rewards' in TrainerRecipe", "'reward'"),
    ("no YAML", yaml("name: [unclosed\n"), "factory", "no YAML", "tiny.yaml"),
    ("no text", yaml(b"\xff\xfe"), "trainer", "tiny.yaml is no text"),
    ("recipe without a student", lines("student: {}"), "factory 'stages=[prompts]'", "student.path", "missing"),
    ("recipe without prompts", lines("prompts: {}"), "trainer", "prompts.path", "missing"),
    ("components that are a list", lines("components: [a]"), "trainer", "Cannot merge"),
    ("component", None, "factory components.new.use=similarty", "'similarty'", "did you mean 'similarity'"),
    ("the component's setting", None, "factory components.chrf.metrik=1", "metrik", "did you mean 'metric'"),
    (
        "component without use",
        lines("components: {a: {metric: chrf}}\nreward: a"),
        "factory",
        "'a' does not say what it",
    ),
    ("component that is a word", lines("components: {a: b}\nreward: a"), "factory", "'a' does not say what it uses"),
    (
        "the probe's component",
        None,
        "trainer probe.every=1 'probe.components={t: {use: langth}}'",
        "did you mean 'length'",
    ),
    ("stage", None, "factory 'stages=[smaples]'", "no stage named 'smaples'", "did you mean 'samples'"),
    ("engine", None, "factory engine.name=hff", "no engine named 'hff'", "did you mean 'hf'"),
    ("device", None, "factory engine.device=tpu seed=5", "device is 'tpu'"),
    ("dtype", None, "factory student.dtype=int8", "dtype is 'int8'", "float32"),
    ("objective", None, "trainer objective=gprpo", "'gprpo' does not exist", "did you mean 'grpo'"),
    ("no objective", None, "trainer objective=null", "objective names nothing"),
    ("metric of a stop rule", None, "trainer 'stop=[{metrik: x, above: 1}]'", "names no metric"),
    ("split of the probe", None, "trainer probe.every=1 probe.split=test", "probe.split=test", "held_out"),
    ("split of a file", None, "factory prompts.split=test", "has no split 'test'"),
    ("split of a benchmark", None, "factory 'stages=[evaluate]' benchmarks.task.split=test", "no test prompts"),
    ("kind of a benchmark", None, "factory 'stages=[evaluate]' benchmarks.task.kind=x", "benchmarks.task.kind is 'x'"),
    (
        "run of a benchmark",
        None,
        "factory 'stages=[evaluate]' 'policies=[student,run:two]'",
        "no finished run named two",
    ),
    ("stop of two tokens", None, "factory 'stages=[samples]' \"sampling.stop=['two words']\"", "must be one token"),
    ("policy of a benchmark", None, "factory 'stages=[evaluate]' 'policies=[studnt]'", "neither student nor run:NAME"),
    ("table", None, "data sql 'SELECT * FROM rewrd_table'", "did you mean 'reward_table'"),
    ("column", None, "data sql 'SELECT finish_reson FROM samples'", "did you mean 'finish_reason'"),
    ("described table", None, "data describe sampels", "did you mean 'samples'"),
    ("inspected pool", None, "data inspect chrf --pool tny", "did you mean 'tiny'"),
    ("reported pool", None, "data report --pool tny", "did you mean 'tiny'"),
    ("reported component", None, "data report --reward chfr", "did you mean 'chrf'"),
    ("format", None, "data sql 'SELECT 1' --format jsn", "did you mean 'json'"),
    ("option", None, "data sql 'SELECT 1' --fromat json", "No such option", "--fromat"),
    ("subcommand", None, "data inspekt", "No such command 'inspekt'"),
    ("no query", None, "data sql", "Missing argument"),
)
def test_an_unknown_name(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)


# numbers

NUMBERS = {
    "factory 'stages=[samples]'": """
        sampling.n=0 sampling.n=-1 sampling.max_tokens=0 sampling.max_tokens=-3 sampling.top_k=-1
        sampling.top_p=0 sampling.top_p=nan sampling.temperature=-1 sampling.temperature=nan
        sampling.repetition_penalty=0 engine.batch_tokens=0 engine.resident=0 sampling.n=many
    """,
    "factory": """
        shard_groups=0 shard_groups=-1 prompts.limit=0 prompts.limit=-1 prompts.held_out=-0.5
        prompts.held_out=nan answers.n=0 answers.temperature=-1 answers.max_tokens=0 answers.top_p=2
        corpus.plain.held_out=2 corpus.plain.held_out=-1 corpus.plain.limit=-1 benchmarks.task.limit=-1
        benchmarks.task.max_tokens=0
    """,
    "trainer": """
        steps=-1 steps=many replay.prompts=0 replay.epochs=0 replay.epochs=-1 replay.penalty=-1
        replay.penalty=nan replay.min_spread=-1 optimiser.lr=-1 optimiser.lr=nan optimiser.betas=[2,2]
        optimiser.betas=[0.9] optimiser.weight_decay=-1 optimiser.warmup=-1 optimiser.clip=0 losses.rl=-1
        losses.bc=-1 losses.kl=-1 losses.pt=nan losses.phases=[{steps:-1}] probe.every=0 probe.max_tokens=0
        probe.max_tokens=-1 probe.start=-1 checkpoint.every=0 checkpoint.keep=0 clip.cap=-1
        objective={grpo:nan} objective={grpo:-1}
    """,
    "data inspect chrf": """
        --rows=0 --rows=-1
    """,
}


@pytest.mark.parametrize(
    ("command", "setting"),
    [(command, setting) for command, settings in NUMBERS.items() for setting in settings.split()],
)
def test_a_number_that_no_setting_can_have(refuses, command, setting):
    path = setting.partition("=")[0]
    refuses(f"{command} '{setting}'", path.rsplit(".", 1)[-1].replace("objective", "grpo"))


def own(body: str) -> Broken:
    """A user's own component of this body."""

    def broken(place: Any) -> None:
        sys.modules.pop("my_own", None)
        place.write("my_own.py", f"def f(prompts, completions):\n    {body}\n")
        place.recipe("components: {bad: {use: 'my_own:f'}}\nreward: bad\nwhere: null")

    return broken


def removed(name: str) -> Broken:
    """A slice that is not there, nor what was made of it."""

    def broken(place: Any) -> None:
        shutil.rmtree(place.root / "lake" / place.slice(name).path)
        shutil.rmtree(place.root / "lake/selections")

    return broken


REWARDS, SELECTIONS = "factory 'stages=[rewards]'", "factory 'stages=[selections]' 'reward=-1*chrf'"


@rows(
    ("NaN", own("return [float('nan') for _ in completions]"), REWARDS, "component 'bad' gave nan"),
    ("infinity", own("return [float('inf') for _ in completions]"), REWARDS, "component 'bad' gave inf"),
    ("a text", own("return ['a' for _ in completions]"), REWARDS, "gave 'a'", "no number"),
    ("too few", own("return [1.0]"), REWARDS, "gave 1 rewards for 6 samples"),
    ("one number", own("return 1.0"), REWARDS, "component 'bad' gave float"),
    ("nothing", own("pass"), REWARDS, "component 'bad' gave NoneType"),
    (
        "a function that raises",
        own("return [1 / 0]"),
        REWARDS,
        "my_own:f raised ZeroDivisionError",
        "sample 0",
        "--debug",
    ),
    ("no Python", own("return ("), REWARDS, "cannot import 'my_own'"),
    ("no function", None, "factory 'components.bad={use: \"json:nothing\"}'", "json has no function 'nothing'"),
    ("no module", None, "factory 'components.bad={use: \"not_there:f\"}'", "cannot import 'not_there'"),
    ("missing for the trainer", removed("rewards:chrf"), "trainer", "no component chrf", "stages=[rewards]"),
    ("missing for a selection", removed("rewards:chrf"), SELECTIONS, "no component chrf", "stages=[rewards]"),
    ("missing for inspect", removed("rewards:chrf"), "data inspect chrf", "unknown column chrf"),
)
def test_a_component_that_is_no_number(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)


EXPRESSIONS = [
    ("*", "'*'"),
    ("sum(chrf)", "SUM(chrf)"),
    ("sum(chrf) over ()", "Window"),
    ("(select 1)", "Subquery"),
    ("chrf in (select 1)", "subquery"),
    ("chrf; chrf", "not one expression but 2"),
    ("chrf; drop table samples", "not one expression but 2"),
    ("chrf, loglik", "cannot be read"),
    ("chrf +", "cannot be read"),
    ("chrf as x", "Alias"),
    ("[chrf]", "Array"),
    ("1", "names no component"),
    ("chff", "did you mean 'chrf'"),
    ("samples.chrf", "did you mean 'chrf'"),
    ("nothing(chrf)", "unknown function nothing"),
    ("read_text('/etc/passwd')", "unknown function read_text"),
    ("finish_reason", "a text, not a number"),
]


@pytest.mark.parametrize("command", ["factory 'stages=[selections]' {}=", "trainer {}=", "data inspect "])
@pytest.mark.parametrize(("expression", "says"), EXPRESSIONS)
def test_an_expression_that_is_no_scalar_or_names_nothing(refuses, command, expression, says):
    word = f'"{command.format("reward").split()[-1]}{expression}"' if "{}" in command else f'"{expression}"'
    refuses(f"{command.format('reward').rsplit(' ', 1)[0]} {word}", says)


@rows(
    ("none to train from", None, "trainer reward=null", "the recipe has no reward"),
    ("an empty one", None, "data inspect ''", "not one expression but 0"),
    ("without spread", None, "trainer 'reward=0*chrf'", "no group", "5 have no spread", "--pool"),
    ("null everywhere", None, "trainer 'reward=null + chrf'", "no group", "5 fewer than two valid"),
    ("where of nothing", None, "trainer where=chff>1", "did you mean 'chrf'"),
    ("where of raft", None, "trainer where=chff>1 objective=raft losses.bc=0", "did you mean 'chrf'"),
    ("where of a selection", None, "factory 'stages=[selections]' 'where=count(*)>1'", "COUNT(*)"),
    ("where that nothing passes", None, "trainer 'where=chrf > 1000'", "no candidate of 5 prompts passes"),
    ("where that raft has nothing of", None, "trainer 'where=chrf > 999' objective=raft losses.bc=0", "no sample of"),
    ("a rival", None, "data inspect chrf --against '*'", "'*'"),
)
def test_an_expression_that_leaves_nothing(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)
