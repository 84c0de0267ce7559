"""The package's entry: finding components, reading settings, identities, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import factory.rewards
from data.refusal import Refusal
from factory.rewards import Batch, Reward, component


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys, factory.rewards; factory.rewards.component({'use': 'similarity'});"
        "print({'torch', 'transformers', 'sacrebleu', 'rapidfuzz', 'py3langid', 'fasttext'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_reward_without_value_is_never_valid() -> None:
    assert Reward(None).valid is False
    assert Reward(0.0).valid is True
    assert Reward.missing("why").detail == "why"


def test_a_batch_refuses_lists_of_another_length() -> None:
    with pytest.raises(ValueError, match="references has 1 entries, texts has 2"):
        Batch.of_texts(["a", "b"], references=[["a"]])
    with pytest.raises(ValueError, match="gold has 1 entries"):
        Batch.of_texts(["a", "b"], columns={"gold": [1]})


def test_a_batch_of_texts_is_empty_elsewhere_and_never_zero() -> None:
    batch = Batch.of_texts(["a", "b"])
    assert len(batch) == 2 and batch.prompts == [[], []] and batch.answers == [[], []]
    assert batch.n_tokens == [None, None] and batch.scorer_totals == [None, None]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"use": "similarty"}, "did you mean 'similarity'?"),
        ({"use": "text"}, "no component is called 'text'"),
        ({"use": "_own"}, "no component is called '_own'"),
        ({"metric": "chrf"}, "does not say what it uses"),
        ({"use": "similarity", "metrik": "chrf"}, "did you mean 'metric'?"),
        ({"use": "similarity", "metric": "chr"}, "did you mean 'chrf'?"),
        ({"use": "similarity", "casefold": "yes"}, "expected true or false"),
        ({"use": "similarity", "scorer": "llama"}, "no setting 'scorer'"),
        ({"use": "repetition", "n": 2.5}, "expected a whole number"),
        ({"use": "repetition", "n": True}, "expected a whole number"),
        ({"use": "repetition", "n": 0}, "at least one"),
        ({"use": "teacher_loglik", "floor": float("nan")}, "expected a finite number"),
        ({"use": "verifier", "tolerance": True}, "expected a finite number"),
        ({"use": "teacher_loglik", "floor": 3}, "at most 0"),
        ({"use": "agreement", "stop": "er"}, "expected a list of texts"),
        ({"use": "agreement", "lexicon": "/nowhere/lexicon.json"}, "no file /nowhere/lexicon.json"),
        ({"use": "agreement", "mode": "answer", "pattern": "("}, "no regular expression"),
        ({"use": "agreement", "pattern": "x"}, "belongs to `mode: answer`"),
        ({"use": "language", "method": "words"}, "needs `file`"),
        ({"use": "format", "kind": "regex"}, "needs it"),
        ({"use": "length", "form": "band"}, "needs `low` or `high`"),
        ({"use": "length", "low": 3}, "belong to `form: band`"),
        ({"use": "length", "form": "band", "low": 3, "high": 2}, "no band from 3 to 2"),
        ({"use": "verifier", "choices": "1234"}, "choices are letters"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_sentence(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal) as refusal:
        component(spec, "mine")
    assert said in str(refusal.value) and "next:" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 2


def test_a_component_is_found_by_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
from dataclasses import dataclass
from factory.rewards import Reward
VERSION, NEEDS, RANGE = 3, frozenset({"scores"}), (0.0, 1.0)
@dataclass(frozen=True)
class Settings:
    bonus: float = 0.0
def score(batch, settings):
    return [Reward(settings.bonus)] * len(batch)
"""
    (tmp_path / "brand_new.py").write_text(source)
    monkeypatch.setattr(factory.rewards, "__path__", [*factory.rewards.__path__, str(tmp_path)])
    this = component({"use": "brand_new", "bonus": 1, "scorer": "llama13b"}, "gift")
    assert this.score(Batch.of_texts(["a"])) == [Reward(1.0)]
    assert (this.name, this.use, this.needs, this.scorer) == ("gift", "brand_new", {"scores"}, "llama13b")
    assert this.identity() == {"use": "brand_new", "version": 3, "settings": {"bonus": 1.0}}
    sys.modules.pop("factory.rewards.brand_new")


def test_the_identity_holds_what_changes_values_and_no_path(tmp_path: Path) -> None:
    def identity(file: Path, **more: Any) -> str:
        return json.dumps(component({"use": "agreement", "lexicon": str(file), **more}, "x").identity())

    one, moved = tmp_path / "one.json", tmp_path / "moved.json"
    one.write_text('{"puffin": "lundi"}')
    moved.write_text('{"puffin": "lundi"}')
    before = identity(one)
    assert before == identity(moved) and str(tmp_path) not in before
    assert before != identity(one, stop=["er"])
    one.write_text('{"puffin": "ryta!"}')  # other bytes
    assert identity(one) != before
    assert component({"use": "similarity"}, "a").identity() == component({"use": "similarity"}, "b").identity()
    assert component({"use": "similarity"}).identity()["settings"]["metric"] == "chrf"


@pytest.mark.parametrize(
    ("content", "said"),
    [("[1]", "no lexicon"), ('{"a": 1}', "no lexicon"), ("{", "no lexicon"), (b"\xff\xfe\x00\xd8", "no UTF-8 text")],
)
def test_a_broken_lexicon_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "lexicon.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refusal, match=said):
        component({"use": "agreement", "lexicon": str(file)}).score(Batch.of_texts(["a"], answers=[["a"]]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_with_component_and_sample(bad: float) -> None:
    this = component({"use": "teacher_loglik"}, "ll")
    batch = Batch.of_texts(["ja", "nei"], scorer_totals=[-1.0, bad])
    with pytest.raises(Refusal, match=r"component 'll' gave -?(nan|inf) for sample 1 of the batch: 'nei'"):
        this.score(batch)


def test_per_token_values_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from factory.rewards import repetition

    monkeypatch.setattr(repetition, "score", lambda batch, settings: [Reward(0.0, values=[0.0, float("nan")])])
    with pytest.raises(Refusal, match="gave nan for sample 0"):
        component({"use": "repetition"}).score(Batch.of_texts(["a"]))
    monkeypatch.setattr(repetition, "score", lambda batch, settings: [])
    with pytest.raises(Refusal, match="gave 0 rewards for 1 samples"):
        component({"use": "repetition"}).score(Batch.of_texts(["a"]))


def test_needs_follow_the_settings(value: Callable[..., float | None]) -> None:
    assert component({"use": "similarity"}).needs == {"references"}
    assert component({"use": "similarity", "to": "answers", "part": "answer"}).needs == {"answers", "answer_patterns"}
    assert component({"use": "length"}).needs == set()
    assert component({"use": "length", "unit": "tokens"}).needs == {"n_tokens"}
    assert component({"use": "language", "language": "prompt"}).needs == {"languages"}
    assert component({"use": "contains", "new_only": True}).needs == {"answers", "prompts"}
