"""A user's own function with TRL's signature."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.refusal import Refusal
from factory.rewards import Batch, Reward, component

SOURCE = """
import json
LIMIT = 5
seen = {}
def shape(prompts, completions, **kwargs):
    seen.update(prompts=prompts, completions=completions, **kwargs)
    return [len(c[0]["content"]) for c in completions]
def gold(completions, gold, weight=1.0):
    return [weight * (c[0]["content"] == g) for c, g in zip(completions, gold)]
def some(prompts, completions, references, scorer_totals, trainer_state=None):
    return [None if not r else t for r, t in zip(references, scorer_totals)]
def online(prompts, completions, completion_ids, **kwargs):
    return [0.0 for _ in completions]
async def later(prompts, completions, **kwargs):
    return [2.0 for _ in completions]
def bad(prompts, completions):
    return ["1.0" for _ in completions]
def nan(prompts, completions):
    return [float("nan") for _ in completions]
def short(prompts, completions):
    return []
def broken(prompts, completions):
    return [json.loads(c[0]['content']) for c in completions]
def together(prompts, completions):
    assert len(completions) == 1
async def asked(prompts, completions):
    seen["asked"] = seen.get("asked", 0) + 1
    raise KeyError("x")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package / "mine.py"
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def _values(function: str, batch: Batch, **settings: float) -> list[float | None]:
    this = component({"use": f"own_package.mine:{function}", **settings}, "mine")
    return [reward.value for reward in this.score(batch)]


@pytest.fixture
def batch() -> Batch:
    return Batch.of_texts(
        ["lundi", "ryta!!"],
        prompts=[[{"role": "user", "content": "hvør?"}]] * 2,
        references=[["lundi"], []],
        scorer_totals=[-1.5, -2.5],
        columns={"gold": ["lundi", "mási"]},
    )


def test_prompts_and_completions_come_as_messages_and_columns_by_name(module: Path, batch: Batch) -> None:
    assert _values("shape", batch) == [5.0, 6.0]
    seen = sys.modules["own_package.mine"].seen
    assert seen["prompts"][0] == [{"role": "user", "content": "hvør?"}]
    assert seen["completions"][1] == [{"role": "assistant", "content": "ryta!!"}]
    assert seen["gold"] == ["lundi", "mási"] and "references" not in seen


def test_a_parameter_receives_its_column_and_settings_are_keywords(module: Path, batch: Batch) -> None:
    assert _values("gold", batch) == [1.0, 0.0]
    assert _values("gold", batch, weight=3.0) == [3.0, 0.0]


def test_none_is_missing_and_named_lists_are_needs(module: Path, batch: Batch) -> None:
    this = component({"use": "own_package.mine:some", "scorer": "llama"}, "mine")
    assert this.needs == {"references", "scores"} and this.scorer == "llama"
    assert this.score(batch) == [Reward(-1.5), Reward.missing("the function gave None")]


def test_a_coroutine_is_awaited(module: Path, batch: Batch) -> None:
    assert _values("later", batch) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("own_package.nowhere:f", "cannot import 'own_package.nowhere'"),
        ("own_package.mine:gould", "did you mean 'gold'?"),
        ("own_package.mine:LIMIT", "has no function 'LIMIT'"),
        (":f", "cannot import ''"),
    ],
)
def test_a_missing_module_or_function_is_refused(module: Path, use: str, said: str) -> None:
    with pytest.raises(Refusal) as refusal:
        component({"use": use}, "mine")
    assert said in str(refusal.value)


def test_an_unknown_setting_and_a_missing_column_are_refused(module: Path, batch: Batch) -> None:
    with pytest.raises(Refusal, match="did you mean 'weight'"):
        component({"use": "own_package.mine:gold", "weigth": 2.0})
    with pytest.raises(Refusal, match="asks for 'completion_ids', which no column holds"):
        _values("online", batch)
    with pytest.raises(Refusal, match="asks for 'gold'"):
        _values("gold", Batch.of_texts(["a"]))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("bad", "gave '1.0' for sample 0, which is no number"),
        ("nan", "gave nan for sample 0"),
        ("short", "gave 0 rewards"),
    ],
)
def test_what_is_no_finite_number_is_refused(module: Path, batch: Batch, function: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        _values(function, batch)


def test_what_the_function_raises_is_one_refusal_with_sample_and_line(module: Path, batch: Batch) -> None:
    line = SOURCE.splitlines().index("    return [json.loads(c[0]['content']) for c in completions]") + 1
    with pytest.raises(Refusal) as refused:
        _values("broken", Batch.of_texts(["1", "[2", "3"]))
    what, then = refused.value.args
    assert what.startswith("component 'mine': own_package.mine:broken raised JSONDecodeError: Expecting ',' delimiter")
    assert what.endswith(f"at {module}:{line}, for sample 1: '[2'") and "--debug" in then
    assert type(refused.value.__cause__).__name__ == "JSONDecodeError"  # what --debug shows


def test_what_no_sample_raises_alone_is_told_of_the_batch(module: Path, batch: Batch) -> None:
    with pytest.raises(Refusal, match=r"raised AssertionError at .*, for a batch of 2 samples"):
        _values("together", batch)
    with pytest.raises(Refusal, match=r"raised KeyError: 'x' at .*, for a batch of 2 samples"):
        _values("asked", batch)
    assert sys.modules["own_package.mine"].seen["asked"] == 1  # what may be paid for is asked no second time


def test_what_a_module_raises_when_it_is_imported_is_a_refusal(module: Path) -> None:
    module.with_name("worse.py").write_text("import json\n\nlimit = undefined\n")
    with pytest.raises(Refusal, match=r"importing 'own_package.worse' raised NameError: .*worse.py:3"):
        component({"use": "own_package.worse:f"}, "mine")


def test_the_identity_follows_the_source_not_the_place(
    module: Path, tmp_path: Path, value: Callable[..., float | None]
) -> None:
    this = component({"use": "own_package.mine:gold", "weight": 2.0})
    before = this.identity()
    assert before["settings"] == {"weight": 2.0} and str(tmp_path) not in str(before)
    module.write_text(SOURCE.replace("LIMIT = 5", "LIMIT = 6"))
    assert this.identity()["sha256"] != before["sha256"]
