"""Faroese told from its neighbours by both identifiers, and the recipe of docs/faroese.md, against which no trick pays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from told_apart import (
    FOREIGN,
    HOUSE,
    PASSING,
    TRICKS,
    WITH_DICTIONARY,
    Texts,
    balanced,
    folder,
    long_enough,
    measuring,
    of_language,
    recipes,
    rewards,
    training,
    verdicts,
)

from data.advantages import advantages
from factory.train_language import train

Way = tuple[dict[str, Any], dict[str, dict[str, Any]]]  # a recipe, what is changed in its components
IDENTIFIERS = ("langid", "fasttext")
SETS = ("lid", "OFT", "FarPaHC", "NTREX")


@pytest.fixture(scope="module")
def texts() -> Texts:
    for name in ("lid/fo.txt", "sib200", "ud", "parallel"):
        if not (folder() / name).exists():
            pytest.skip(f"no {name} below FAROESE_TEXT ({folder()})")
    return long_enough(measuring())


@pytest.fixture(scope="module")
def identifiers(texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of `language` by method; the fastText model is trained on what is not measured."""
    pytest.importorskip("fasttext")
    model = tmp_path_factory.mktemp("model") / "model.bin"
    train(training(), model)
    return {"langid": {}, "fasttext": {"method": "fasttext", "file": str(model)}}


def test_what_measures_trained_nothing(texts: Texts) -> None:
    trained = {line for lines in training().values() for line in lines}
    measured = [line for lines in texts.values() for line in lines]
    assert len(trained) > 4000 and len(measured) > 5000
    assert trained.isdisjoint(measured)


@pytest.mark.parametrize("method", IDENTIFIERS)
def test_faroese_is_told_from_seven_languages(
    method: str, texts: Texts, identifiers: dict[str, dict[str, Any]]
) -> None:
    for names in (*([name] for name in SETS), SETS):
        assert balanced(texts, names, **identifiers[method]) >= 0.97, names
    for language in FOREIGN:
        called = verdicts(of_language(texts, language), **identifiers[method])
        assert np.mean([value == 1.0 for value in called]) < 0.03, language


@pytest.mark.parametrize("method", IDENTIFIERS)
def test_no_trick_earns_what_a_poor_sentence_earns(
    method: str, texts: Texts, identifiers: dict[str, dict[str, Any]], dictionary_fo: str
) -> None:
    full, bare, _ = recipes()
    ways: list[Way] = [(full, {"spelling": {"dictionary": dictionary_fo}}), (bare, {})]
    for (recipe, changed), tricks in zip(ways, (TRICKS | WITH_DICTIONARY, TRICKS), strict=True):
        changed = changed | {"language": identifiers[method]}
        least = min(np.quantile(rewards(recipe, texts[name, "fo"], changed), 0.05) for name in SETS)
        earned = rewards(recipe, list(tricks.values()), changed)
        assert not np.isnan(earned).any()
        assert least > 0.4 and earned.max() < least / 2, dict(zip(tricks, earned, strict=True))
        if recipe is full:
            for language in FOREIGN:
                assert np.quantile(rewards(recipe, of_language(texts, language), changed), 0.99) < least, language


def test_what_passes_is_what_the_page_admits(dictionary_fo: str) -> None:
    values = rewards(recipes()[0], list(PASSING.values()), {"spelling": {"dictionary": dictionary_fo}})
    assert dict(zip(PASSING, values > 0.4, strict=True)) == dict.fromkeys(PASSING, True)


def test_tricks_have_a_disadvantage_not_none(dictionary: str) -> None:
    """By the made dictionary: a null would leave the group, and with it the punishment."""
    full, bare, short = recipes()
    for recipe in (full, bare, short):
        changed = {"spelling": {"dictionary": dictionary}} if "spelling" in recipe["components"] else {}
        values = rewards(recipe, [HOUSE, "Eg eg eg eg", "1 2 3 4 5", "", "Jógvan Poulsen Marjun Dam"], changed)
        found = advantages(values, ~np.isnan(values), np.array([0]))
        assert found.in_loss.all() and found.vector[0] > 0 > found.vector[1:].max(), recipe["reward"]
    alone = rewards({"components": {"language": {"use": "language"}}, "reward": "language"}, [HOUSE, "Eg eg eg eg"], {})
    assert np.isnan(alone[1])  # what coalesce is there for


def test_the_filter_keeps_sentences_and_no_trick(dictionary: str) -> None:
    recipe = recipes()[0] | {"reward": recipes()[0]["where"]}
    changed = {"spelling": {"dictionary": dictionary}}
    assert not (rewards(recipe, list(TRICKS.values()), changed) == 1).any()
    [kept] = rewards(recipes()[1] | {"reward": recipes()[1]["where"]}, [HOUSE], {})
    assert kept == 1


def test_a_short_answer_is_paid_by_its_spelling(dictionary: str) -> None:
    changed = {"spelling": {"dictionary": dictionary}}
    assert list(rewards(recipes()[2], ["Tórshavn", "Hon er", "Puffin", "42", ""], changed)) == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", IDENTIFIERS)
def test_older_spelling_is_faroese(
    method: str, identifiers: dict[str, dict[str, Any]], faroese_text: Callable[[str], list[str]]
) -> None:
    older = [line for line in faroese_text("ud/ud_faroese_farpahc.txt") if "ö" in line]
    assert len(older) > 700
    assert np.mean([value == 1.0 for value in verdicts(older, **identifiers[method])]) > 0.94
