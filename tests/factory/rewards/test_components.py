"""What holds for every component: its file's parts, its range, NFD as NFC, blank texts, settings that are read."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.rewards import Batch, Reply, component, names

LISTS = {"references", "answers", "prompts", "answer_patterns", "languages", "n_tokens", "scores"} | {
    "replies",
    "reply_scores",
}
DICTIONARY = str(Path(__file__).with_name("small.dic"))
NEEDED: dict[str, dict[str, Any]] = {  # settings without which a component is refused
    "spelling": {"dictionary": DICTIONARY},
    "foreign_words": {"own": [DICTIONARY], "foreign": [DICTIONARY]},
    "execution": {"allow": True},
}
OWN_TESTS = {"reward_model"}  # needs a model
VARIANTS: list[dict[str, Any]] = [
    *({"use": "teacher_loglik", "form": form, "floor": -8.0} for form in ("sum", "token", "byte")),
    *(
        {"use": "similarity", "metric": metric, "over": over, "casefold": over == "mean"}
        for metric in ("bleu", "chrf", "rouge_l", "edit", "exact", "positional")
        for over in ("best", "mean")
    ),
    {"use": "similarity", "to": "answers", "part": "answer"},
    {"use": "agreement", "stop": ["er", "á"]},
    {"use": "agreement", "to": "references", "content": ["lundi", "kráka"]},
    {"use": "agreement", "mode": "answer"},
    {"use": "language"},
    {"use": "language", "output": "verdict", "min_words": 1},
    {"use": "alphabet"},
    *({"use": "judge", "mode": mode, "to": to} for mode in ("score", "verdict") for to in ("nothing", "answers")),
    {"use": "judge", "mode": "pairwise", "to": "references"},
    *({"use": "bilingual", "form": form, "floor": -8.0} for form in ("sum", "token", "byte")),
    *({"use": "back_translation", "to": to, "over": "mean"} for to in ("references", "answers")),
    {"use": "fluency"},
    {"use": "fluency", "floor": -1.5},
    {"use": "spelling", "dictionary": DICTIONARY},
    {"use": "spelling", "dictionary": DICTIONARY, "names": "count", "min_words": 2},
    {"use": "foreign_words", "own": [DICTIONARY], "foreign": [DICTIONARY], "names": "count"},
    {"use": "execution", "allow": True},
    {"use": "alphabet", "letters": "abc", "also": "ö"},
    {"use": "repetition", "n": 1},
    {"use": "repetition", "n": 2, "unit": "chars"},
    {"use": "prose"},
    {"use": "prose", "low": 0.0, "high": 1.0, "window": 3},
    {"use": "length"},
    {"use": "length", "unit": "chars", "form": "band", "low": 2, "high": 5, "margin": 3},
    {"use": "format"},
    {"use": "format", "kind": "json", "part": "answer"},
    {"use": "format", "kind": "regex", "pattern": "[a-zø ]+"},
    {"use": "verifier"},
    {"use": "verifier", "kind": "choices", "to": "answers"},
    {"use": "contains"},
    {"use": "contains", "to": "references", "over": "mean", "match": "word", "folded": False, "new_only": True},
]
PIECES = [
    "lundi",
    "Tórshavn",
    "kráka",
    "er",
    "á",
    "ð",
    "ø",
    "o\u0308",
    "B",
    "1.234,5",
    "7",
    "😀",
    "\n",
    "  ",
    "x\u0302",
]
TAGS = ["<think>", "</think>", "<answer>", "</answer>", '{"a": 1}']
TEXTS = st.lists(st.sampled_from(PIECES + TAGS) | st.text(max_size=6), max_size=8).map(" ".join)


@pytest.mark.parametrize("name", names())
def test_a_component_file_says_what_it_is(name: str) -> None:
    module = importlib.import_module(f"factory.rewards.{name}")
    for said in ("Range:", "Cost:", "Cannot see:"):
        assert said.lower() in (module.__doc__ or "").lower(), f"{name} does not say its {said}"
    assert type(module.VERSION) is int and module.VERSION >= 1
    assert isinstance(module.NEEDS, frozenset) and module.NEEDS <= LISTS
    low, high = module.RANGE
    assert low < high
    assert list(inspect.signature(module.score).parameters) == ["batch", "settings"]
    kind = module.Settings
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert len(dataclasses.fields(kind)) <= 12


def _documented(body: list[ast.stmt]) -> set[str]:
    pairs = itertools.pairwise(body)
    fields = {
        a.target.id
        for a, b in pairs
        if isinstance(a, ast.AnnAssign) and isinstance(a.target, ast.Name)
        if isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant) and isinstance(b.value.value, str)
    }
    return fields


@pytest.mark.parametrize("name", names())
def test_every_setting_has_its_sentence_and_is_read(name: str) -> None:
    module = importlib.import_module(f"factory.rewards.{name}")
    tree = ast.parse(Path(module.__file__ or "").read_text())
    [kind] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    known = {field.name for field in dataclasses.fields(module.Settings)}
    assert _documented(kind.body) == known
    read = {
        node.attr
        for top in tree.body
        if top is not kind
        for node in ast.walk(top)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "settings"
    }
    assert read == known, f"{name} never reads {known - read}"


def test_every_component_is_among_the_variants_tried_below() -> None:
    assert {variant["use"] for variant in VARIANTS} == set(names()) - OWN_TESTS


def _batch(text: str, other: str, third: str) -> Batch:
    targets = [[other, third]]
    return Batch.of_texts(
        [text],
        references=targets,
        answers=targets,
        prompts=[[{"role": "user", "content": third}]],
        scorer_totals=[-2.5 * (len(text) + 1)],
        n_scorer_tokens=[len(text) + 1],
        n_tokens=[len(text.split()) + 1],
        languages=["fo"],
        replies=[[Reply(third, None, -2.5 * len(third), len(third)), Reply("Score: 4")]],
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(text=TEXTS, other=TEXTS, third=TEXTS)
def test_values_stay_in_range_and_nfd_equals_nfc(variant: dict[str, Any], text: str, other: str, third: str) -> None:
    this = component(variant)
    low, high = importlib.import_module(f"factory.rewards.{this.use}").RANGE
    nfc = [unicodedata.normalize("NFC", t) for t in (text, other, third)]
    nfd = [unicodedata.normalize("NFD", t) for t in (text, other, third)]
    [composed], [apart] = this.score(_batch(*nfc)), this.score(_batch(*nfd))
    assert composed.value is None or low <= composed.value <= high
    if this.use not in ("teacher_loglik", "fluency", "bilingual"):  # the scorer read the bytes as they were
        assert composed == apart


REPLIES = {"judge": [[Reply("Score: 1")]]}  # to components that ask a model, where a reply is more than another text
BLANK_IS = {
    "judge": 0.0,
    "bilingual": None,
    "back_translation": None,
    "teacher_loglik": None,
    "similarity": 0.0,
    "agreement": 0.0,
    "language": None,
    "alphabet": None,
    "repetition": 0.0,
    "prose": 0.0,
    "length": 0.0,
    "format": 0.0,
    "verifier": 0.0,
    "contains": 0.0,
    "fluency": None,
    "spelling": None,
    "foreign_words": None,
    "execution": None,
}


@pytest.mark.parametrize("name", sorted({*names()} - OWN_TESTS))
@pytest.mark.parametrize("text", ["", " \n\t ", "😀"])
def test_blank_texts_are_scored_or_missing_with_a_reason(name: str, text: str) -> None:
    answers = [["Tórshavn 7"]]
    [reward] = component({"use": name} | NEEDED.get(name, {})).score(
        Batch.of_texts([text], references=answers, answers=answers, replies=REPLIES.get(name, [[]]))
    )
    assert reward.value == BLANK_IS[name]
    assert reward.value is not None or reward.detail


@pytest.mark.parametrize("name", ["similarity", "agreement", "verifier", "contains", "back_translation", "judge"])
@pytest.mark.parametrize("to", ["references", "answers"])
@pytest.mark.parametrize("targets", [[], ["", "  \n"]])
def test_nothing_to_compare_with_is_missing_never_zero(name: str, to: str, targets: list[str]) -> None:
    this = component({"use": name, "to": to})
    assert this.needs & {"references", "answers"} == {to}
    [reward] = this.score(Batch.of_texts(["Tórshavn 7"], **{to: [targets]}))
    assert reward.value is None and not reward.valid and to in (reward.detail or "")
